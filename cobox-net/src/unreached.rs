//! Why an address led nowhere, in a few words for people.

use std::error::Error;
use std::io::{self, ErrorKind};

/// Reasons that are told of one attempt; it may have gone to many addresses.
const REASONS_MAX: usize = 3;

/// Each reason once, in their order; empty where there is none.
pub fn reasons<'a>(errors: impl IntoIterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut told: Vec<String> = Vec::new();
    for error in errors {
        let reason = reason(error);
        if told.len() < REASONS_MAX && !told.contains(&reason) {
            told.push(reason);
        }
    }
    told.join("; ")
}

/// What the innermost error says; what the system's errors mean, in our words.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(inner) = inner(innermost) {
        innermost = inner;
    }
    let text = innermost.to_string();
    if let Some(reason) = of_the_system(&text) {
        return reason.to_owned();
    }
    let mut letters = text.trim_end_matches('.').chars();
    let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

/// What it was made of: an I/O error passes over its own content when it is asked for its source.
pub fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let content = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    content.map(|content| content as &(dyn Error + 'static)).or_else(|| error.source())
}

/// Whether it says that the other end broke a connection off: by its type, or by its text where that is gone.
pub fn is_end(error: &(dyn Error + 'static)) -> bool {
    let typed = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let text = error.to_string();
    let bare =
        || [io::Error::from(ErrorKind::UnexpectedEof).to_string().as_str(), "eof"].contains(&text.as_str());
    let is = |kind: ErrorKind| {
        matches!(
            kind,
            ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
        )
    };
    typed.is_some_and(is) || kind_in(&text).is_some_and(is) || bare()
}

/// By the number that an I/O error has in its text: libp2p's transports pass one on as if it were their own, so that its
/// type is gone.
fn kind_in(text: &str) -> Option<ErrorKind> {
    let (_, number) = text.strip_suffix(')')?.rsplit_once("(os error ")?;
    Some(io::Error::from_raw_os_error(number.parse().ok()?).kind())
}

fn of_the_system(text: &str) -> Option<&'static str> {
    match kind_in(text)? {
        ErrorKind::ConnectionRefused => Some("the connection was refused"),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Some("the connection was broken off"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("there is no way there"),
        ErrorKind::TimedOut => Some("no answer came in time"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux's number of a refused connection.
    const ECONNREFUSED: i32 = 111;

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(ECONNREFUSED)
    }

    #[test]
    fn reason_is_what_the_system_said_however_deep_it_is() {
        let deep = io::Error::other(io::Error::other(refused()));
        let without_type = io::Error::other(refused().to_string());
        for error in [&deep, &without_type] {
            assert_eq!(reasons([error as &(dyn Error + 'static)]), "the connection was refused");
        }
    }

    #[test]
    fn reasons_are_each_told_once_and_not_too_many() {
        let (one, other) = (refused(), io::Error::other("Timeout has been reached."));
        let more: Vec<io::Error> = (0..9).map(|at| io::Error::other(format!("reason {at}"))).collect();
        let errors =
            [&one, &other, &one].into_iter().chain(&more).map(|error| error as &(dyn Error + 'static));
        assert_eq!(reasons(errors), "the connection was refused; timeout has been reached; reason 0");
        assert_eq!(reasons([]), "");
    }
}
