//! Passwords, ACL users and TLS.

use std::path::PathBuf;

use vipd::config::{Login, Tls};
use vipd::connect::Error;
use vipd::redis_node::{self, Role};
use vipd::resolve::Resolver;
use vipd::sentinel::{MasterAnswer, inspect};

use crate::lab::{self, MASTER, Scratch, Server, dialer, report, tool};
use crate::{claim_of, config, follow_with, lost};

pub(crate) fn login(username: Option<&str>, password_file: Option<PathBuf>) -> Login {
    Login { username: username.map(str::to_owned), password_file, tls: None }
}

#[tokio::test]
async fn a_password_is_needed_and_a_wrong_one_is_named_as_such() {
    let scratch = Scratch::new();
    let right = login(None, Some(scratch.write("right", "hunter2\n")));
    let wrong = login(None, Some(scratch.write("wrong", "hunter3\n")));
    let port = lab::free_port();
    let lines = format!("port {port}\nrequirepass hunter2\nmasterauth hunter2");
    let redis = Server::redis_at(&scratch, port, &lines, &right).await;
    let port = lab::free_port();
    let lines = format!("port {port}\nrequirepass hunter2");
    let at = ("127.0.0.1", redis.port);
    let sentinel = Server::sentinel_at(&scratch, port, at, 1, &lines, &right).await;

    for (login, expected) in [(&Login::default(), Error::NoAuth), (&wrong, Error::WrongPassword)] {
        let config = config(vec![sentinel.endpoint()], login.clone(), &[MASTER]);
        let (_followers, mut reports) = follow_with(&config);
        assert_eq!(report(&mut reports, "its loss", lost(0)).await, expected);
        let node = redis_node::inspect(&dialer(login), &Resolver::default(), redis.addr()).await;
        assert_eq!(node.unwrap_err(), expected);
    }

    let config = config(vec![sentinel.endpoint()], right.clone(), &[MASTER]);
    let (_followers, mut reports) = follow_with(&config);
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await.0, redis.addr());
    let node = redis_node::inspect(&dialer(&right), &Resolver::default(), redis.addr()).await;
    assert!(matches!(node.unwrap().role, Role::Master { .. }));
}

#[tokio::test]
async fn a_password_that_nobody_asked_for_is_named_as_such() {
    let scratch = Scratch::new();
    let redis = Server::redis(&scratch, "").await;
    let login = login(None, Some(scratch.write("password", "hunter2\n")));
    let node = redis_node::inspect(&dialer(&login), &Resolver::default(), redis.addr()).await;
    assert_eq!(node.unwrap_err(), Error::PasswordUnexpected);
}

#[tokio::test]
async fn a_password_that_changes_is_read_again() {
    let scratch = Scratch::new();
    let file = scratch.write("password", "old\n");
    let redis = Server::redis(&scratch, "").await;
    redis.tell("CONFIG SET requirepass new").await.unwrap();
    let dialer = dialer(&login(None, Some(file)));
    scratch.write("password", "new\n");
    let resolver = Resolver::default();
    let first = redis_node::inspect(&dialer, &resolver, redis.addr()).await;
    assert_eq!(first.unwrap_err(), Error::WrongPassword);
    let second = redis_node::inspect(&dialer, &resolver, redis.addr()).await;
    assert!(second.is_ok(), "{second:?}");
}

#[tokio::test]
async fn an_acl_user_needs_no_more_than_the_documented_permissions() {
    let scratch = Scratch::new();
    let users = "user vipd on >hunter2 resetkeys &* -@all +ping +client|setname +sentinel|myid \
                 +sentinel|master +sentinel|get-master-addr-by-name +sentinel|replicas \
                 +sentinel|sentinels +sentinel|ckquorum +psubscribe +info +role\n\
                 user deaf on >hunter2 resetkeys &* -@all +ping +client|setname +sentinel +info";
    let vipd = login(Some("vipd"), Some(scratch.write("vipd", "hunter2")));
    let deaf = login(Some("deaf"), Some(scratch.write("deaf", "hunter2")));
    let stranger = login(Some("stranger"), Some(scratch.write("stranger", "hunter2")));
    let node_users = "user vipd on >hunter2 resetkeys resetchannels -@all +ping +role";
    let redis = Server::redis(&scratch, node_users).await;
    let sentinel = Server::sentinel(&scratch, redis.port, 1, users).await;

    let config = config(vec![sentinel.endpoint()], vipd.clone(), &[MASTER]);
    let (_followers, mut reports) = follow_with(&config);
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await.0, redis.addr());

    let asked = |login: &Login| {
        let dialer = dialer(login);
        let endpoint = sentinel.endpoint();
        async move { inspect(&dialer, &Resolver::default(), &endpoint, &[MASTER]).await.answer }
    };
    let answer = asked(&vipd).await.unwrap();
    assert!(matches!(&answer.masters[..], [MasterAnswer::Known(known)] if known.ckquorum.is_ok()));
    let error = asked(&deaf).await.unwrap_err();
    assert!(matches!(&error, Error::NoPerm(text) if text.contains("psubscribe")), "{error:?}");
    assert_eq!(asked(&stranger).await.unwrap_err(), Error::WrongPassword);

    // INFO is forbidden there, and not needed.
    let node = redis_node::inspect(&dialer(&vipd), &Resolver::default(), redis.addr()).await;
    let node = node.unwrap();
    assert!(matches!(node.role, Role::Master { .. }) && node.replication.is_none(), "{node:?}");
}

/// Certificates for `localhost` and a client, by one authority.
pub(crate) fn certificates(scratch: &Scratch) {
    let dir = scratch.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    tool(
        "openssl",
        &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=ca"),
        dir,
    );
    scratch.write("localhost.ext", "subjectAltName=DNS:localhost\n");
    scratch.write("client.ext", "extendedKeyUsage=clientAuth\n");
    for name in ["localhost", "client"] {
        let request = format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}");
        tool("openssl", &request, dir);
        let signed = format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile \
             {name}.ext -out {name}.crt"
        );
        tool("openssl", &signed, dir);
    }
}

#[tokio::test]
async fn tls_with_a_client_certificate_reaches_sentinels_and_nodes() {
    let scratch = Scratch::new();
    certificates(&scratch);
    let path = |name: &str| scratch.path().join(name);
    let tls = Tls {
        ca: path("ca.crt"),
        cert: Some(path("client.crt")),
        key: Some(path("client.key")),
        server_name: Some("localhost".into()),
    };
    let with = |tls: Tls| Login { tls: Some(tls), ..Login::default() };
    let good = with(tls.clone());
    let lines = |port: u16| {
        let dir = scratch.path().display();
        format!(
            "port 0\ntls-port {port}\ntls-replication yes\ntls-ca-cert-file {dir}/ca.crt\n\
             tls-cert-file {dir}/localhost.crt\ntls-key-file {dir}/localhost.key\n\
             tls-auth-clients yes"
        )
    };
    let port = lab::free_port();
    let redis = Server::redis_at(&scratch, port, &lines(port), &good).await;
    let port = lab::free_port();
    let at = ("127.0.0.1", redis.port);
    let sentinel = Server::sentinel_at(&scratch, port, at, 1, &lines(port), &good).await;

    let config = config(vec![sentinel.endpoint()], good.clone(), &[MASTER]);
    let (_followers, mut reports) = follow_with(&config);
    assert_eq!(report(&mut reports, "a claim", claim_of(0)).await.0, redis.addr());
    let resolver = Resolver::default();
    let node = redis_node::inspect(&dialer(&good), &resolver, redis.addr()).await.unwrap();
    assert!(matches!(node.role, Role::Master { .. }));

    let no_certificate = with(Tls { cert: None, key: None, ..tls.clone() });
    let other_name = with(Tls { server_name: Some("elsewhere".into()), ..tls.clone() });
    let by_address = with(Tls { server_name: None, ..tls });
    for (login, expected) in [
        (&no_certificate, "CertificateRequired"),
        (&other_name, "not valid for name"),
        (&by_address, "not valid for name"),
    ] {
        let error = redis_node::inspect(&dialer(login), &resolver, redis.addr()).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let plain = redis_node::inspect(&dialer(&Login::default()), &resolver, redis.addr()).await;
    let error = plain.unwrap_err().to_string();
    assert!(error.contains("may speak TLS only"), "{error}");

    // A certificate for the name that Sentinel announces needs no `server_name`.
    resolver.resolve("localhost", redis.port).await.unwrap();
    assert!(redis_node::inspect(&dialer(&by_address), &resolver, redis.addr()).await.is_ok());

    let plain_redis = Server::redis(&scratch, "").await;
    let answer = redis_node::inspect(&dialer(&good), &resolver, plain_redis.addr()).await;
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("may not speak TLS"), "{error}");
}
