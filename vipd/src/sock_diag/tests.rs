use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const NONE: Destroyed = Destroyed { sockets: 0, kept: 0, left: 0, more: false };

/// Connected through loopback, which has a whole /8: the server's end and the client's.
fn connect(listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let (server, _) = listener.accept().unwrap();
    (server, client)
}

#[test]
fn exactly_the_connections_of_an_address_are_reset_and_its_listeners_stay() {
    for bind in ["0.0.0.0:0", "[::]:0"] {
        let listener = TcpListener::bind(bind).unwrap();
        let port = listener.local_addr().unwrap().port();
        let vip = SocketAddr::from(([127, 18, 0, 250], port));
        let other = SocketAddr::from(([127, 18, 0, 251], port));
        let mut ends: Vec<_> = (0..200).map(|_| connect(&listener, vip)).collect();
        let (_server, mut kept) = connect(&listener, other);

        let destroyed = destroy(vip.ip(), Whose::Everybodys, Instant::now() + LIMIT).unwrap();
        assert_eq!(destroyed, Destroyed { sockets: 200, ..NONE }, "{bind}");
        for (_, client) in &mut ends {
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        kept.set_nonblocking(true).unwrap();
        let error = kept.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "another address's");
        connect(&listener, vip);
    }
}

/// In a network namespace of its own: there is only one `::1`, and others may use it.
#[test]
fn connections_of_an_ipv6_address_are_reset() {
    let alone = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (_server, mut client) = connect(&listener, addr);
        // Both ends have it, and the end of one is the end of the other.
        let whose = Whose::HeardWithin(LIMIT);
        let destroyed = destroy(addr.ip(), whose, Instant::now() + LIMIT).unwrap();
        assert_eq!(destroyed, Destroyed { sockets: 1, ..NONE });
        assert!(client.read(&mut [0]).is_err());
    });
    alone.join().unwrap();
}

/// A connection over loopback from this address, which has said nothing since it was made.
fn connect_from(from: [u8; 4], listener: &TcpListener) -> (TcpStream, TcpStream) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(LIMIT)).unwrap();
    (server, client)
}

#[test]
fn a_client_is_told_if_anything_came_from_its_host_lately() {
    let listener = TcpListener::bind("127.18.0.249:0").unwrap();
    let vip = listener.local_addr().unwrap().ip();
    let (_gone, mut silent) = connect_from([127, 18, 1, 1], &listener);
    let (_idle, mut idle) = connect_from([127, 18, 1, 2], &listener);
    let silence = Duration::from_secs(3);
    std::thread::sleep(silence);
    let (_busy, mut busy) = connect_from([127, 18, 1, 2], &listener);

    let destroyed = destroy(vip, Whose::HeardWithin(silence / 2), Instant::now() + LIMIT).unwrap();
    assert_eq!(destroyed, Destroyed { sockets: 2, kept: 1, ..NONE });
    for client in [&mut idle, &mut busy] {
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    silent.set_nonblocking(true).unwrap();
    let error = silent.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "nobody knows whether it would hear");
    // What it says makes the difference, a keepalive of its kernel as well.
    silent.set_nonblocking(false).unwrap();
    io::Write::write_all(&mut silent, b"?").unwrap();
    let destroyed = destroy(vip, Whose::HeardWithin(silence / 2), Instant::now() + LIMIT).unwrap();
    assert_eq!(destroyed, Destroyed { sockets: 1, ..NONE });
}

#[test]
fn whether_it_would_work_is_known_beforehand() {
    can_destroy().unwrap();
}

#[test]
fn there_is_a_limit_to_the_time_even_for_finding_them() {
    let listener = TcpListener::bind("127.18.0.252:0").unwrap();
    let (_server, mut client) = connect(&listener, listener.local_addr().unwrap());
    let addr = "127.18.0.252".parse().unwrap();
    let none = destroy(addr, Whose::Everybodys, Instant::now()).unwrap();
    assert_eq!(none, Destroyed { more: true, ..NONE });
    client.set_nonblocking(true).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it was ended");
}

#[test]
fn whoever_listens_is_found_by_address_and_by_wildcard() {
    for (bind, found) in [
        ("127.18.0.253:0", true),
        ("0.0.0.0:0", true),
        ("[::]:0", true),
        ("127.18.0.254:0", false),
        ("[::1]:0", false),
    ] {
        let listener = TcpListener::bind(bind).unwrap();
        let port = listener.local_addr().unwrap().port();
        let addr = SocketAddr::from(([127, 18, 0, 253], port));
        assert_eq!(is_listening(addr).unwrap(), found, "{bind}");
        drop(listener);
        assert!(!is_listening(addr).unwrap(), "{bind}, closed");
    }
}

#[test]
fn an_answer_that_is_cut_short_is_not_read_past_its_end() {
    for length in 0..HEADER + 4 {
        let bytes = vec![0; length];
        if let Some(message) = Message::parse(&bytes) {
            assert!(length >= HEADER);
            assert!(message.result().is_err() || length >= HEADER + 4);
        }
        assert_eq!(Found::parse(&bytes), None);
        assert_eq!(last_heard(&bytes), None);
    }
}
