//! Who may come in: the token, and nobody whom a web page sent.
//!
//! A browser on this machine reaches loopback too. A page from elsewhere is kept out twice: its requests
//! bear its `Origin` (or `Sec-Fetch-Site`), and a name that it made point to this machine (DNS rebinding)
//! stands in `Host`, where only this machine's own names are taken.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::{Fault, Reach, Token};

/// Through which door a request came.
#[derive(Clone, Debug)]
pub enum Door {
    /// The Unix socket: the kernel let in its owner only.
    Socket,
    /// TCP.
    Tcp {
        /// What must be shown.
        token: Token,
        /// Where it listens.
        address: SocketAddr,
        /// For whom.
        reach: Reach,
    },
}

/// Lets a request through, or says why not.
pub async fn gate(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match look(&door, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            let mut response = fault.into_response();
            // What else it sends is not read.
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
            response
        }
    }
}

fn look(door: &Door, headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let sent_by_a_page = text(header::ORIGIN).is_some()
        || headers
            .get("sec-fetch-site")
            .is_some_and(|site| !matches!(site.as_bytes(), b"none" | b"same-origin"));
    if sent_by_a_page {
        return Err(Fault::refused("A web page sent this request, and none may.", ""));
    }
    let Door::Tcp { token, address, reach } = door else { return Ok(()) };
    if headers.get_all(header::HOST).iter().count() != 1
        || !text(header::HOST).is_some_and(|host| is_ours(host, *address, *reach))
    {
        return Err(Fault::refused(
            "The request names another host than this one.",
            format!("Use http://{address}/ or, for loopback, http://localhost:{}/.", address.port()),
        )
        .with_status(421));
    }
    let shown = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
    if shown.is_some_and(|shown| token.is_shown_by(shown)) {
        Ok(())
    } else {
        Err(Fault::refused(
            "The request shows no token, or a wrong one.",
            "Send `Authorization: Bearer TOKEN`, with what the file api.token holds.",
        )
        .with_status(401))
    }
}

/// Whether a `Host` header means this listener: a number, so that no name server decides about it, or
/// `localhost`. Who listens for the whole network cannot know all its numbers.
fn is_ours(host: &str, address: SocketAddr, reach: Reach) -> bool {
    const HTTP_PORT: u16 = 80;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) => (name, port),
            Err(_) => return false,
        },
        _ => (host, HTTP_PORT),
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let known = match (ip, reach) {
        (Ok(ip), Reach::Loopback) => ip.is_loopback(),
        (Ok(_), Reach::Network) => true,
        (Err(_), _) => name.eq_ignore_ascii_case("localhost"),
    };
    known && port == address.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_a_number_of_ours_or_localhost_and_no_name_that_a_stranger_may_point_here() {
        let address: SocketAddr = "127.0.0.1:7741".parse().expect("an address");
        for host in ["127.0.0.1:7741", "localhost:7741", "LocalHost:7741", "[::1]:7741"] {
            assert!(is_ours(host, address, Reach::Loopback), "{host}");
        }
        for host in [
            "evil.example:7741",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1.evil.example:7741",
            "localhost.:7741",
            "192.168.0.1:7741",
            "127.0.0.1:x",
            "",
            ":7741",
            "[::1]",
        ] {
            assert!(!is_ours(host, address, Reach::Loopback), "{host}");
        }
        assert!(is_ours("192.168.0.1:7741", address, Reach::Network));
        assert!(!is_ours("evil.example:7741", address, Reach::Network));
    }

    #[test]
    fn request_of_a_web_page_is_refused_on_every_door() {
        let mut headers = HeaderMap::new();
        assert!(look(&Door::Socket, &headers).is_ok());
        headers.insert(header::ORIGIN, header::HeaderValue::from_static("null"));
        assert_eq!(look(&Door::Socket, &headers).expect_err("refused").status, 403);
        headers.remove(header::ORIGIN);
        for (site, refused) in
            [("cross-site", true), ("same-site", true), ("same-origin", false), ("none", false)]
        {
            headers.insert("sec-fetch-site", header::HeaderValue::from_static(site));
            assert_eq!(look(&Door::Socket, &headers).is_err(), refused, "{site}");
        }
    }
}
