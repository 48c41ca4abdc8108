//! TLS by rustls, with *ring*.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Error, Phase, SetupError};
use crate::config;

/// The files that `tls = { … }` names, read.
pub(super) struct Tls {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Reads and checks the files.
    pub(super) fn load(tls: &config::Tls) -> Result<Self, SetupError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("ca", &tls.ca)? {
            roots.add(certificate).map_err(|error| problem("ca", &tls.ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| problem("ca", &tls.ca, error))?
            .with_root_certificates(roots);
        let config = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| problem("key", key, error))?;
                builder
                    .with_client_auth_cert(certificates("cert", cert)?, private)
                    .map_err(|error| problem("cert", cert, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        let server_name = match &tls.server_name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| {
                SetupError::Tls { what: format!("server_name {name:?}"), reason: error.to_string() }
            })?),
            None => None,
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// Shakes hands. The certificate must be for `server_name`, or for `host` without one.
    pub(super) async fn connect(
        &self,
        host: &str,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| Error::Tls(format!("{host:?} can't be in a certificate")))?,
        };
        self.connector.connect(name, tcp).await.map_err(|error| Error::from_io(&error, Phase::Tls))
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| problem(key, path, error))?;
    if certificates.is_empty() {
        return Err(problem(key, path, "there is no certificate in it (PEM is expected)"));
    }
    Ok(certificates)
}

fn problem(key: &str, path: &Path, reason: impl ToString) -> SetupError {
    SetupError::Tls { what: format!("{key} {}", path.display()), reason: reason.to_string() }
}
