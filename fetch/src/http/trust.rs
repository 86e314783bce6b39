//! Whom TLS trusts: the authorities of a file that the user names, the system's, or those built in.
//!
//! A certificate that the user names is trusted as a server's own, too, even where it says of itself that it is
//! an authority: many a private server has made its only one so, and curl takes it. webpki refuses it whatever
//! it is compared with, so there is a verifier of ours before it: for exactly the certificates of that file, by
//! their bytes, with their names and days held as ever; the handshake proves the key, as ever.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::tls::{Certificate, PemItem, RootCerts};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::error::Error;

/// Where Linux distributions keep the system's authorities, as one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who vouches for servers.
#[derive(Debug)]
pub(crate) enum Roots {
    /// The certificates of a file that a setting names.
    Named(Vec<CertificateDer<'static>>),
    /// The system's, or those built in.
    Usual(RootCerts),
}

impl Roots {
    /// The certificates of `given`, else of `SSL_CERT_FILE`, else the system's, else (on a bare machine)
    /// Mozilla's as built in.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Setting`].
    pub(crate) fn of(given: Option<&Path>) -> Result<Roots, Error> {
        let variable = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
        let named = given.or_else(|| variable.as_deref().map(Path::new));
        if let Some(path) = named {
            let all = bundle(path)?;
            let owned = |one: &Certificate<'_>| CertificateDer::from(one.der().to_vec());
            return Ok(Roots::Named(all.iter().map(owned).collect()));
        }
        Ok(Roots::Usual(match BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
            Some(path) => RootCerts::new_with_certs(&bundle(path)?),
            None => RootCerts::WebPki,
        }))
    }
}

fn bundle(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let pem = fs::read(path).map_err(|source| Error::Unreadable {
        what: "CA file",
        path: path.to_owned(),
        source,
    })?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(unusable(path, "it holds no PEM certificate")),
        false => Ok(certificates),
    }
}

fn unusable(path: &Path, why: &'static str) -> Error {
    Error::Setting { name: "CA file", value: path.display().to_string(), why }
}

/// TLS with the certificates of a file that the user names.
#[derive(Debug)]
pub(crate) struct Secure {
    config: Arc<ClientConfig>,
}

impl Secure {
    /// # Errors
    /// [`Error::Setting`] where none of them can be read.
    pub(crate) fn new(named: Vec<CertificateDer<'static>>) -> Result<Secure, Error> {
        let none =
            |_| unusable(Path::new("the one that is named"), "no certificate in it can be read");
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(named.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let usual = usual.build().map_err(none)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| unusable(Path::new("rustls"), "it has no version of TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { usual, named }))
            .with_no_client_auth();
        Ok(Secure { config: Arc::new(config) })
    }
}

impl<In: Transport> Connector<In> for Secure {
    type Out = Either<In, Secured>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| ureq::Error::Tls("the host's name can be in no certificate"))?;
        let mut conn = ClientConnection::new(self.config.clone(), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let stream = Box::new(StreamOwned { conn, sock });
        Ok(Some(Either::B(Secured { buffers, stream })))
    }
}

/// A connection by TLS.
pub(crate) struct Secured {
    buffers: LazyBuffers,
    stream: Box<StreamOwned<ClientConnection, TransportAdapter>>,
}

impl std::fmt::Debug for Secured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secured")
    }
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output();
        Ok(self.stream.write_all(output.get(..amount).unwrap_or(output))?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// webpki's, and before it those very certificates.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.named.iter().any(|one| one.as_ref() == end_entity.as_ref()) {
            let usual = &self.usual;
            return usual.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        let (from, to) = validity(end_entity).ok_or(CertificateError::BadEncoding)?;
        match now.as_secs() {
            now if now < from => Err(CertificateError::NotValidYet.into()),
            now if now > to => Err(CertificateError::Expired.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// The days of a certificate, seconds since 1970 (RFC 5280 4.1: the second field after the serial number).
fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // A version may come first, under a tag of its own.
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    // Serial number, signature's algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, days, _) = element(rest)?;
    let (tag, from, rest) = element(days)?;
    let (other, to, _) = element(rest)?;
    Some((time(tag, from)?, time(other, to)?))
}

/// Tag, content and what follows, of one element of DER.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.is_empty() || digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (tag 23) or `YYYYMMDDHHMMSSZ` (tag 24).
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match tag {
        23 if text.len() == 12 && text < "50" => format!("20{text}"),
        23 if text.len() == 12 => format!("19{text}"),
        24 if text.len() == 14 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    crate::text::date::rfc3339(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_of_a_certificate_are_read() {
        let mut params = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(validity(certificate.der()), Some((981_158_400, 2_558_995_200)));
        for cut in 0..certificate.der().len().min(200) {
            validity(&certificate.der()[..cut]);
        }
        assert_eq!(time(23, b"500101000000Z"), None.or(time(24, b"19500101000000Z")));
        assert_eq!(element(&[0x30, 0x85, 1, 1, 1, 1, 1]), None);
    }
}
