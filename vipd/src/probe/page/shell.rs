//! What every page of vipd has: one file, no script, nothing from the network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");

/// A whole page: `body` below nothing but the page's head. Light or dark as the reader has it, light
/// in print. `title` is plain text.
///
/// Its Content-Security-Policy forbids all scripts and requests, whatever got into `body`.
pub fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "vipd " (env!("CARGO_PKG_VERSION")) };
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (patterns())
                main { (body) }
            }
        }
    }
    .into_string()
}

/// What areas are filled with that a colour alone would tell from others.
fn patterns() -> Markup {
    html! {
        svg.patterns width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="late" width="4" height="4" patternUnits="userSpaceOnUse" {
                    rect.ground width="4" height="4" {}
                    rect.stroke width="1.5" height="4" {}
                }
                pattern id="refused" width="6" height="6" patternUnits="userSpaceOnUse"
                    patternTransform="rotate(45)" {
                    rect.ground width="6" height="6" {}
                    rect.stroke width="2.5" height="6" {}
                }
                pattern id="silent" width="5" height="5" patternUnits="userSpaceOnUse" {
                    rect.ground width="5" height="5" {}
                    circle.stroke cx="2.5" cy="2.5" r="0.9" {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_become_markup() {
        let body = html! { p title=("\"><script>1</script>") { ("<script>2</script>") } };
        let page = document("</title><script>3</script>", &body);
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn a_page_names_nothing_outside_of_itself() {
        let page = document("probe", &html! { p { "text" } });
        for word in ["src=", "href=", "@import", "url(h", "<script"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
