//! Each client against a truth that is known: servers on loopback that do one thing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use vipd::clock::Monotonic;

use super::{Arrivals, Blocked, Fate, How, Patient};
use crate::client::Dialer;
use crate::namespace::Namespace;
use crate::wait::{PATIENCE, wait_until};

fn dialer(to: SocketAddr) -> Dialer {
    Dialer::new(&Namespace::own().expect("this thread's namespace"), to, None)
}

/// Answers what clients of [`Blocked`] send, and hands each connection over when it waits.
fn waiting_room() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (hand_over, waiting) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut sent = [0; 1024];
            let length = stream.read(&mut sent).unwrap_or(0);
            let sent = String::from_utf8_lossy(&sent[..length]).into_owned();
            let mut answer = "+PONG\r\n".to_owned();
            if sent.contains("SUBSCRIBE") {
                answer += "*3\r\n$9\r\nsubscribe\r\n$16\r\nvipd-lab:silence\r\n:1\r\n";
            }
            if stream.write_all(answer.as_bytes()).is_err() || hand_over.send(stream).is_err() {
                return;
            }
        }
    });
    (address, waiting)
}

/// How all of some clients learned of what `end` did to their connections, and that none knew
/// before, and none long after.
fn learned(count: usize, mut end: impl FnMut(TcpStream)) -> Vec<How> {
    let (address, waiting) = waiting_room();
    let blocked = Blocked::start(&dialer(address), count).expect("they wait");
    let connections: Vec<_> = waiting.iter().take(count).collect();
    assert!(blocked.waiters().iter().all(|it| it.ended.is_none()));
    let before = Monotonic::now();
    connections.into_iter().for_each(&mut end);
    blocked.wait_all_know(PATIENCE).expect("they learn of it");
    let after = Monotonic::now();
    let ended: Vec<_> = blocked.waiters().iter().filter_map(|it| it.ended).collect();
    assert!(ended.iter().all(|it| (before..=after).contains(&it.at)), "{ended:?}");
    assert_eq!(blocked.last().1, 0);
    ended.into_iter().map(|it| it.how).collect()
}

#[test]
fn a_waiting_client_notes_a_reset() {
    let reset = |stream: TcpStream| {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream.as_fd(), Linger, &at_once).expect("a reset instead of a close");
    };
    assert_eq!(learned(200, reset), [How::Reset; 200]);
}

#[test]
fn a_waiting_client_notes_a_close_and_a_word() {
    assert_eq!(learned(3, drop), [How::Closed; 3]);
    let tell = |mut stream: TcpStream| stream.write_all(b"-UNBLOCKED\r\n").expect("it is told");
    assert_eq!(learned(3, tell), [How::Told; 3]);
}

#[test]
fn a_waiting_client_that_is_told_nothing_knows_nothing() {
    let (address, _waiting) = waiting_room();
    let blocked = Blocked::start(&dialer(address), 3).expect("they wait");
    let error = blocked.wait_all_know(Duration::ZERO).expect_err("nothing has happened");
    assert!(format!("{error:#}").contains("3 of 3 don't"), "{error:#}");
    assert_eq!(blocked.last(), (None, 3));
}

#[test]
fn those_who_cannot_even_begin_are_an_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let error = Blocked::start(&dialer(nobody), 3).expect_err("nobody listens");
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

#[test]
fn patient_clients_begin_within_their_time_and_note_when_they_are_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let time = Duration::from_millis(100);
    let before = Monotonic::now();
    let patient = Patient::start(&dialer(address), 50, time).expect("they start");
    patient.wait_all_over(PATIENCE).expect("all connect");
    let after = Monotonic::now();
    let attempts = patient.attempts();
    assert_eq!(attempts.len(), 50);
    assert!(attempts.is_sorted_by_key(|it| it.begun));
    let different = attempts.windows(2).filter(|pair| pair[0].begun != pair[1].begun).count();
    assert!(different > 25, "the moments are not random: {attempts:?}");
    for attempt in &attempts {
        let established = attempt.established().expect("it is connected");
        assert!(before <= attempt.begun && attempt.begun <= established && established <= after);
    }
}

#[test]
fn patient_clients_note_that_they_are_refused_and_that_nobody_answers() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let fates = |dialer: &Dialer| {
        let patient = Patient::start(dialer, 3, Duration::ZERO).expect("they start");
        patient.wait_all_over(PATIENCE).expect("they are over");
        let attempts = patient.attempts();
        attempts.into_iter().filter_map(|it| it.fate).map(|(_, fate)| fate).collect::<Vec<_>>()
    };
    assert_eq!(fates(&dialer(nobody)), [Fate::Refused; 3]);

    // A queue of connections that is full drops what comes: this one takes a single connection.
    let full = TcpListener::bind("127.0.0.1:0").expect("a port");
    // SAFETY: a plain system call on an open descriptor.
    assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&full), 0) }, 0);
    let address = full.local_addr().expect("its address");
    let _first = TcpStream::connect(address).expect("one fits");
    let impatient = Dialer { connect_timeout: Duration::from_millis(50), ..dialer(address) };
    assert_eq!(fates(&impatient), [Fate::TimedOut; 3]);
}

#[test]
fn who_arrives_writes_once_and_notes_by_whom_it_was_acknowledged() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        // The second and every other one after it is told that this is a replica.
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let _sent = stream.read(&mut [0; 1024]);
            let info = "# Server\r\nrun_id:abc\r\n";
            let set = if number % 2 == 0 { "+OK" } else { "-READONLY no" };
            let answer = format!("{set}\r\n${}\r\n{info}\r\n", info.len());
            let _is_gone = stream.write_all(answer.as_bytes());
        }
    });
    let arrivals = Arrivals::start("crowd", &dialer(address), Duration::from_millis(1));
    let arrivals = arrivals.expect("they come");
    wait_until("some have been there", PATIENCE, || {
        let ledger = arrivals.ledger();
        Ok(ledger.writes.len() > 5 && ledger.failures.len() > 5)
    })
    .expect("some were served");
    let ledger = arrivals.stop();
    assert!(ledger.writes.iter().all(|it| &*it.by == "abc" && it.sent <= it.acknowledged));
    assert!(ledger.failures.iter().all(|it| it.what.contains("READONLY")), "{ledger:?}");
}
