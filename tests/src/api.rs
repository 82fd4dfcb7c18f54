//! The HTTP API of a running program, asked over its Unix socket; every answer is compared with its own document.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::http::{Answer, check, exchange, operations, request, unix};
use crate::process::Device;

/// The API of a program on its socket.
pub struct Api {
    /// Its socket.
    pub socket: PathBuf,
    /// What it says that it answers.
    pub document: Value,
    /// Operations that were tried.
    pub seen: RefCell<BTreeSet<(String, String)>>,
}

impl Api {
    /// The API behind a socket.
    #[must_use]
    pub fn of(socket: PathBuf) -> Self {
        let document = exchange(unix(&socket), &request("GET", "/openapi.json", &[], None)).json();
        Self { socket, document, seen: Default::default() }
    }

    /// A daemon's.
    #[must_use]
    pub fn of_device(device: &Device) -> Self {
        Self::of(device.home.join("run/api.sock"))
    }

    /// Asks, checks the answer against the document, and notes that the operation was tried.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn call(&self, method: &str, template: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = exchange(unix(&self.socket), &request(&method.to_ascii_uppercase(), path, &[], body));
        check(&self.document, method, template, &answer);
        self.seen.borrow_mut().insert((method.to_owned(), template.to_owned()));
        answer
    }

    /// The same for an answer that must be good.
    ///
    /// # Panics
    /// When it is not.
    pub fn ok(&self, method: &str, template: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.call(method, template, path, body);
        assert!(matches!(answer.status, 200 | 201), "{method} {path}: {answer:?}");
        answer.json()
    }

    /// What stands at a path without parameters.
    pub fn get(&self, path: &str) -> Value {
        self.ok("get", path, path, None)
    }

    /// The status and exit code of a request that must fail.
    ///
    /// # Panics
    /// When it does not, or is no problem with a sentence.
    pub fn fails(&self, method: &str, template: &str, path: &str, body: Option<&Value>) -> (u16, u64) {
        let answer = self.call(method, template, path, body);
        let fault = answer.json();
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        assert!(fault["detail"].as_str().is_some_and(|text| text.contains(' ')), "{fault}");
        (answer.status, fault["exit"].as_u64().expect("an exit code"))
    }

    /// Asserts that nothing described was left out.
    ///
    /// # Panics
    /// When something was.
    pub fn assert_all_were_tried(&self) {
        let seen = self.seen.borrow();
        let left: Vec<_> =
            operations(&self.document).into_iter().filter(|operation| !seen.contains(operation)).collect();
        assert!(left.is_empty(), "described and not tried: {left:?}");
    }
}
