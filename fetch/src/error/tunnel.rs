//! What the answer of a proxy means that opens no tunnel.

/// What a proxy that was asked for a tunnel said, where it will say the same again.
pub(crate) fn refusal(said: &str) -> Option<&'static str> {
    let said = said.strip_prefix("proxy server ").unwrap_or(said);
    let status = said.strip_prefix("responded ")?.split('/').next()?;
    advice(status.parse().ok()?)
}

/// What helps where a proxy has answered `status` for good.
pub(crate) fn advice(status: u16) -> Option<&'static str> {
    match status {
        407 => Some(
            "it requires a name and a password: put them into the proxy variable, http://name:password@host:port",
        ),
        401 | 403 => {
            Some("its rules forbid this server: have them changed, or put it into NO_PROXY")
        }
        400 | 404 | 405 | 501 => Some("it does not proxy this: check the proxy variable"),
        _ => None,
    }
}
