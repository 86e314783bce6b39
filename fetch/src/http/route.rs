//! The way to a server: directly, by a proxy's tunnel (https), or by asking a proxy for the whole URL (plain
//! http), as curl does. ureq knows the first two; the third is a connector of ours under it.
//!
//! Which proxy it is, is `proxy.rs`'s; whom TLS trusts is `trust.rs`'s.

use std::path::Path;

use ureq::Agent;
use ureq::config::{Config, ConfigBuilder};
use ureq::tls::TlsConfig;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, DefaultConnector, NextTimeout,
    TcpConnector, Transport,
};

use crate::error::Error;
use crate::http::guard::Guard;
use crate::http::interim::SkipInterim;
use crate::http::proxy;
use crate::http::trust::{Roots, Secure};
use crate::s3::endpoint::Endpoint;

/// How a server is reached.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) agent: Agent,
    /// The proxy that leads there, without its password.
    pub(crate) proxy: Option<String>,
    /// Whether the proxy itself reads the requests, and so may answer them.
    pub(crate) read_by_proxy: bool,
}

/// Finds the way to `endpoint` and makes an agent that goes it.
///
/// # Errors
/// [`Error::Setting`] for a proxy variable, and as [`Roots::of`].
pub(crate) fn route(
    config: ConfigBuilder<AgentScope>,
    endpoint: &Endpoint,
    ca_file: Option<&Path>,
    look: &dyn Fn(&str) -> Option<String>,
) -> Result<Route, Error> {
    let proxy = proxy::find(endpoint, look)?;
    let name = proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
    if let Some(proxy) = &proxy
        && !endpoint.is_https()
        && proxy.protocol() == ureq::ProxyProtocol::Http
    {
        let asks = Absolute { credentials: proxy::credentials(proxy) };
        let to = ToProxy { proxy: proxy.uri().clone(), guard: Guard::default() };
        let connector = ().chain(TcpConnector::default()).chain(asks).chain(SkipInterim);
        let agent = Agent::with_parts(config.proxy(None).build(), connector, to);
        return Ok(Route { agent, proxy: name, read_by_proxy: true });
    }
    let config = config.proxy(proxy);
    let agent = match endpoint.is_https().then(|| Roots::of(ca_file)).transpose()? {
        Some(Roots::Named(named)) => {
            let connector =
                ().chain(ConnectProxyConnector::default())
                    .chain(TcpConnector::default())
                    .chain(Secure::new(named)?)
                    .chain(SkipInterim);
            Agent::with_parts(config.build(), connector, Guard::default())
        }
        Some(Roots::Usual(roots)) => {
            let tls = TlsConfig::builder().root_certs(roots).build();
            let config = config.tls_config(tls).build();
            Agent::with_parts(config, DefaultConnector::new().chain(SkipInterim), Guard::default())
        }
        None => Agent::with_parts(
            config.build(),
            DefaultConnector::new().chain(SkipInterim),
            Guard::default(),
        ),
    };
    Ok(Route { agent, proxy: name, read_by_proxy: false })
}

/// Leads every name to the proxy: it is the one that knows the server's.
#[derive(Debug)]
struct ToProxy {
    proxy: ureq::http::Uri,
    guard: Guard,
}

impl Resolver for ToProxy {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.guard.resolve(&self.proxy, config, timeout)
    }
}

/// Makes of each request one for the whole URL (RFC 9112 3.2.2).
#[derive(Clone, Debug)]
struct Absolute {
    /// What `Proxy-Authorization` is to say.
    credentials: Option<String>,
}

impl<In: Transport> Connector<In> for Absolute {
    type Out = Asking<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Asking<In>>, ureq::Error> {
        // The bucket may be in the host.
        let server = details.uri.authority().map_or("", |authority| authority.as_str());
        let (server, asks) = (format!("http://{server}"), self.clone());
        Ok(chained.map(|inner| Asking { inner, server, asks, at_head: true }))
    }
}

/// A connection to the proxy.
struct Asking<In> {
    inner: In,
    /// `http://host[:port]`.
    server: String,
    asks: Absolute,
    /// Whether what goes out next begins a request.
    at_head: bool,
}

impl<In> std::fmt::Debug for Asking<In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asking")
    }
}

impl Absolute {
    /// The head as a proxy is to have it; none where it is no request.
    fn head(&self, server: &str, head: &[u8]) -> Option<Vec<u8>> {
        let blank = head.iter().position(|b| *b == b' ')? + 1;
        let (method, rest) = head.split_at(blank);
        let line = rest.windows(2).position(|two| two == b"\r\n")? + 2;
        let (line, headers) = rest.split_at(line);
        let mut asked = Vec::with_capacity(head.len() + 256);
        for piece in [method, server.as_bytes(), line] {
            asked.extend_from_slice(piece);
        }
        if let Some(credentials) = &self.credentials {
            asked.extend_from_slice(b"Proxy-Authorization: ");
            asked.extend_from_slice(credentials.as_bytes());
            asked.extend_from_slice(b"\r\n");
        }
        asked.extend_from_slice(headers);
        Some(asked)
    }
}

impl<In: Transport> Transport for Asking<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if !std::mem::take(&mut self.at_head) {
            return self.inner.transmit_output(amount, timeout);
        }
        let output = self.inner.buffers().output();
        let asked = output.get(..amount).and_then(|head| self.asks.head(&self.server, head));
        let place = asked.as_ref().and_then(|asked| output.get_mut(..asked.len()));
        let (Some(asked), Some(place)) = (asked, place) else {
            return Err(ureq::Error::ConnectionFailed);
        };
        place.copy_from_slice(&asked);
        self.inner.transmit_output(asked.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.at_head = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_the_whole_url() {
        let (mut asks, server) = (Absolute { credentials: None }, "http://h:9000");
        let head = b"GET /bkt/k?x HTTP/1.1\r\nHost: h:9000\r\n\r\nbody";
        let due: &[u8] = b"GET http://h:9000/bkt/k?x HTTP/1.1\r\nHost: h:9000\r\n\r\nbody";
        assert_eq!(asks.head(server, head).as_deref(), Some(due));
        asks.credentials = Some("Basic eDp5".into());
        let head = asks.head(server, head).unwrap();
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("\r\nProxy-Authorization: Basic eDp5\r\nHost: "), "{head}");
        assert_eq!(asks.head(server, b"nonsense"), None);
    }
}
