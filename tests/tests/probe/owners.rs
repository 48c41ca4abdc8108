//! Who has the VIP: two hosts at once for a known time, and a move at a known moment.
//!
//! Both servers have the address all the time. Whether one answers is decided by what its kernel
//! drops, by the clock.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vipd::clock::Monotonic;
use vipd::probe::report::{LayerName, Owners};
use vipd_common::addr::MacAddr;
use vipd_tests::truth::{Rule, Site, Tap};

use crate::announcement;
use crate::judge::{Answered, EXACT, at, between};

const MS: Duration = Duration::from_millis(1);
/// Between two questions, at 200 a second.
const INTERVAL: Duration = Duration::from_millis(5);
const FOR_EVER: Monotonic = Monotonic(u64::MAX);
/// Places in the client's tap.
const ANSWERS: usize = 0;
const ANNOUNCEMENTS: usize = 1;

#[test]
fn two_hosts_that_answer_arp_at_once_are_seen_for_as_long_as_they_do() -> Result<()> {
    two_at_once(true)
}

#[test]
fn two_hosts_that_advertise_at_once_are_seen_for_as_long_as_they_do() -> Result<()> {
    two_at_once(false)
}

#[test]
fn a_move_is_seen_by_the_next_question_over_ipv4() -> Result<()> {
    moves(true)
}

#[test]
fn a_move_is_seen_by_the_next_question_over_ipv6() -> Result<()> {
    moves(false)
}

fn two_at_once(is_v4: bool) -> Result<()> {
    const BOTH: Duration = Duration::from_millis(400);
    let link = Link::up(is_v4)?;
    link.questions[1].drop_between(0, &[(Monotonic(0), FOR_EVER)])?;
    let mut probe = link.probe()?;
    probe.wait_until("it is under way", || Ok(link.answers.count(ANSWERS) > 40))?;
    let from = Monotonic::now() + MS * 50;
    let to = from + BOTH;
    link.questions[1].drop_between(0, &[(Monotonic(0), from), (to, FOR_EVER)])?;
    ensure!(Monotonic::now() < from, "the second host was let in too late");
    let measured = probe.end()?;

    let layer = measured.layer(link.layer)?;
    let owners = layer.owners.as_ref().context("no owners")?;
    let macs = [0, 1].map(|it| link.site.servers[it].mac);
    let [one, other] = [link.answered(0)?, link.answered(1)?];
    let (first, last) = ends(&other)?;
    let told = Duration::from_nanos(owners.both_ns);
    println!("both for {BOTH:?}: {told:?} told, {} questions", owners.answered_by_both);
    let (least, most) = (last.there.since(first.back), last.back.since(first.there));
    ensure!(
        least <= told + EXACT && told <= most + EXACT,
        "{told:?} is told; by the kernels it was between {least:?} and {most:?}"
    );
    let unsure = INTERVAL * 2 + late(layer) + (most - least);
    ensure!(told.abs_diff(BOTH) <= unsure, "{told:?} is told, it was {BOTH:?}");

    // A question is told apart from the next if both have answered before that comes.
    let all = other.len() as u64;
    let clean = other.iter().filter(|it| {
        let nearest = |&&number: &&usize| one[number].there.0.abs_diff(it.there.0);
        let numbers: Vec<usize> = (0..one.len()).collect();
        let Some(&number) = numbers.iter().min_by_key(nearest) else { return false };
        let next = one.get(number + 1).map_or(FOR_EVER, |it| it.there);
        one[number].back.max(it.back) < next
    });
    let clean = clean.count() as u64;
    ensure!(
        (clean..=all).contains(&owners.answered_by_both),
        "{all} questions reached both, {clean} of them one by one; {} are told",
        owners.answered_by_both
    );
    for mac in macs {
        let told = mac.to_string();
        ensure!(owners.changes.iter().any(|it| it.mac == told), "{told} is not in {owners:?}");
        ensure!(layer.lanes.iter().any(|it| it.label == told), "no lane for {told}");
    }
    ensure!(owners.announcements.is_empty(), "{:?}", owners.announcements);
    let overtaken = one.windows(2).filter(|pair| pair[0].back >= pair[1].there).count() as u64;
    ensure!(layer.lost <= overtaken, "{} lost, {overtaken} overtaken", layer.lost);
    Ok(())
}

fn moves(is_v4: bool) -> Result<()> {
    let link = Link::up(is_v4)?;
    link.questions[1].drop_between(0, &[(Monotonic(0), FOR_EVER)])?;
    let mut probe = link.probe()?;
    probe.wait_until("it is under way", || Ok(link.answers.count(ANSWERS) > 40))?;
    let moment = Monotonic::now() + MS * 100;
    link.questions[1].drop_between(0, &[(Monotonic(0), moment)])?;
    link.questions[0].drop_between(0, &[(moment, FOR_EVER)])?;
    ensure!(Monotonic::now() < moment, "the move was told of too late");
    probe.wait_until("it has moved", || Ok(Monotonic::now() > moment))?;
    let new = &link.site.servers[1];
    let sent = Monotonic::now();
    announcement::send(new, link.vip)?;
    let measured = probe.end()?;

    let run = measured.run()?;
    let layer = measured.layer(link.layer)?;
    let owners = layer.owners.as_ref().context("no owners")?;
    let macs = [0, 1].map(|it| link.site.servers[it].mac.to_string());
    let Owners { changes, announcements, .. } = owners;
    ensure!(
        changes.iter().map(|it| &it.mac).eq(&macs),
        "it moved once, from {macs:?}: {changes:?}"
    );
    let [(_, last), (first, _)] = [ends(&link.answered(0)?)?, ends(&link.answered(1)?)?];
    let told = at(run, changes[1].at_ns);
    println!("told {:?} after the move", told.since(moment));
    between(first.there, told, first.back)?;
    let most = INTERVAL + EXACT + late(layer) + first.back.since(first.there);
    ensure!(told.since(moment) <= most, "{:?} after the move", told.since(moment));

    let heard = link.answers.entries(ANNOUNCEMENTS)?;
    let [announced] = heard.as_slice() else { anyhow::bail!("{heard:?}") };
    let [told] = announcements.as_slice() else { anyhow::bail!("{announcements:?}") };
    ensure!(told.mac == macs[1], "{told:?}");
    let told = at(run, told.at_ns);
    between(sent, told, announced.at).context("the announcement")?;

    let blackout = layer.blackout.as_ref().context("a change is an outage, however short")?;
    let begin = at(run, blackout.from_ns);
    between(last.there, begin, last.back).context("the last of the old host")?;
    let end = at(run, blackout.to_ns.context("it does not end")?);
    between(first.there, end, first.back).context("the first of the new host")?;
    ensure!([&blackout.old, &blackout.new].into_iter().flatten().eq(&macs), "{blackout:?}");
    ensure!(owners.both_ns == 0 && owners.answered_by_both == 0, "{owners:?}");
    Ok(())
}

/// Two servers that both have the VIP, and taps.
struct Link {
    site: Site,
    layer: LayerName,
    vip: IpAddr,
    /// At each server.
    questions: [Tap; 2],
    /// At the client: [`ANSWERS`] and [`ANNOUNCEMENTS`].
    answers: Tap,
}

impl Link {
    fn up(is_v4: bool) -> Result<Self> {
        let site = Site::up()?;
        site.give_vips(0)?;
        site.give_vips(1)?;
        let vip = Site::vip(is_v4);
        let (question, answer, announcement) = match vip {
            IpAddr::V4(vip) => (
                Rule::arp_request(vip),
                Rule::arp_claim(vip, site.client.address),
                Rule::arp_claim(vip, vip),
            ),
            IpAddr::V6(vip) => (
                Rule::solicitation(vip),
                Rule::advertisement(vip, SOLICITED | OVERRIDE),
                Rule::advertisement(vip, OVERRIDE),
            ),
        };
        // Nobody else on the client asks.
        site.client.pin_neighbour(vip, site.servers[0].mac)?;
        let ask = |server: usize| {
            let rules = std::slice::from_ref(&question);
            Tap::attach(&site.servers[server].namespace, "eth0", rules)
        };
        let questions = [ask(0)?, ask(1)?];
        let answers = Tap::attach(&site.client.namespace, "eth0", &[answer, announcement])?;
        let layer = if is_v4 { LayerName::Arp } else { LayerName::Nd };
        Ok(Self { site, layer, vip, questions, answers })
    }

    /// Questions that a server got, with their answers, in order.
    fn answered(&self, server: usize) -> Result<Vec<Answered>> {
        let sender = last_four(self.site.servers[server].mac);
        let questions = self.questions[server].entries(0)?.into_iter().filter(|it| it.passed);
        let answers = self.answers.entries(ANSWERS)?.into_iter().filter(|it| it.key == sender);
        let (questions, answers): (Vec<_>, Vec<_>) = (questions.collect(), answers.collect());
        ensure!(
            questions.len() == answers.len(),
            "server {server} got {} questions and answered {}",
            questions.len(),
            answers.len()
        );
        let pairs = questions.into_iter().zip(answers);
        Ok(pairs
            .map(|(question, answer)| Answered { there: question.at, back: answer.at })
            .collect())
    }

    fn probe(&self) -> Result<vipd_tests::truth::Running> {
        let layer = format!("--layers={}", self.layer.name());
        let target = self.vip.to_string();
        self.site.probe(&[
            &target,
            &layer,
            "--arp-rate=200",
            "--duration=1500ms",
            "--warm-up=100ms",
            "--timeout=300ms",
        ])
    }
}

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// What a tap tells a sender by.
fn last_four(mac: MacAddr) -> u32 {
    let [_, _, a, b, c, d] = mac.0;
    u32::from_be_bytes([a, b, c, d])
}

/// How late the probe says its questions were.
fn late(layer: &vipd::probe::report::Layer) -> Duration {
    Duration::from_nanos(layer.schedule.map_or(0, |it| it.late_max_ns))
}

fn ends(answered: &[Answered]) -> Result<(Answered, Answered)> {
    answered.first().copied().zip(answered.last().copied()).context("it never answered")
}
