// What a reader sees of the page in `window`, as tests/probe_page/main.rs wants it.
window => {
  const document = window.document;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const words = element => element.textContent.replace(/\s+/g, " ").trim();
  const style = element => window.getComputedStyle(element);
  const place = element => element.getBoundingClientRect();
  const isSeen = element => { const it = place(element); return it.width > 0 && it.height > 0; };
  all("details").forEach(it => { it.open = true; });

  // An element's text without that of its <title>.
  const own = element => [...element.childNodes].filter(it => it.nodeType === 3).map(it => it.data).join("").trim();

  const rgb = text => {
    const parts = (text.match(/[\d.]+/g) || []).map(Number);
    return { color: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
  };
  const luminance = color => {
    const [r, g, b] = color.map(it => it / 255).map(it => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const groundOf = element => {
    const badge = element.closest("svg .badge rect") || (element.closest("svg") && element.closest(".badge")?.querySelector("rect"));
    if (badge && style(badge).fill.startsWith("rgb")) return rgb(style(badge).fill).color;
    for (let it = element; it; it = it.parentElement) {
      const ground = rgb(style(it).backgroundColor);
      if (ground.alpha === 1 && ground.color.length === 3) return ground.color;
    }
    return [255, 255, 255];
  };
  const faint = all("body *")
    .filter(it => own(it) && isSeen(it) && !it.closest("title, .unseen") && it.localName !== "title")
    .map(it => {
      const color = rgb(it.localName === "text" ? style(it).fill : style(it).color).color;
      return { contrast: contrast(color, groundOf(it)), words: own(it).slice(0, 40) };
    })
    .sort((one, other) => one.contrast - other.contrast);

  // Boxes of text have room above and below the letters.
  const SLACK = 4;
  const collisions = [];
  for (const svg of all("figure svg")) {
    const edge = place(svg);
    const texts = all("text", svg).filter(isSeen).map(it => ({ at: place(it), words: own(it) }));
    texts.forEach(({ at, words }, nth) => {
      if (at.left < edge.left - 1 || at.right > edge.right + 1 || at.top < edge.top - 1 || at.bottom > edge.bottom + 1)
        collisions.push(`${words} sticks out of ${svg.getAttribute("aria-label")}`);
      for (const other of texts.slice(nth + 1)) {
        const wide = Math.min(at.right, other.at.right) - Math.max(at.left, other.at.left);
        const high = Math.min(at.bottom, other.at.bottom) - Math.max(at.top, other.at.top);
        if (wide > 0.5 && high > SLACK) collisions.push(`${words} and ${other.words} in ${svg.getAttribute("aria-label")}`);
      }
    });
    // A badge is a box around its words, and keeps to itself.
    const badges = all(".badge", svg).filter(isSeen);
    for (const badge of badges) {
      const [box, text] = [place(badge.querySelector("rect")), place(badge.querySelector("text"))];
      if (text.left < box.left - 0.5 || text.right > box.right + 0.5) collisions.push(`badge ${own(badge.querySelector("text"))} is too small`);
    }
    badges.slice(1).forEach((it, nth) => {
      if (place(it).left < place(badges[nth]).right - 0.1) collisions.push(`badges ${words(it)}`);
    });
  }

  const timelines = all("figure svg").filter(it => it.querySelector("[data-layer]")).map(svg => ({
    layers: all("[data-layer]", svg).filter(isSeen).map(it => it.dataset.layer),
    badges: all(".badge text", svg).filter(isSeen).map(own),
    lengths: all("[data-outages] .blackout .length", svg).filter(isSeen)
      .map(it => [it.closest("[data-outages]").dataset.outages, own(it)]),
  }));

  return {
    dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
    ground: style(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    timelines,
    collisions: collisions.slice(0, 20),
    faintest: faint.slice(0, 3),
    headlines: all("[data-blackout]").map(it => [it.dataset.blackout, words(it.querySelector(".value"))]),
    lists: all(".marks").map(it => all("td .badge", it).filter(isSeen).map(words)),
    named: all("figure svg").map(it => Boolean(it.getAttribute("aria-label")) && Boolean(it.querySelector("title"))),
    text: words(document.body),
  };
}
