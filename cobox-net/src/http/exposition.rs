//! Prometheus' text exposition format, version 0.0.4: what `/metrics` answers.

use std::fmt::{Display, Write as _};

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// What a number is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It rises and falls.
    Gauge,
    /// It rises from the program's start; its name ends with `_total`.
    Counter,
}

/// A page of metrics.
#[derive(Default, Debug)]
pub struct Exposition(String);

impl Exposition {
    /// Adds one metric with all its samples, each with its labels.
    pub fn metric<V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, V)>,
    ) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing into a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            self.0.push_str(name);
            for (at, (label, text)) in labels.iter().enumerate() {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(self.0, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
            }
            let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }

    /// Adds a metric of one sample without labels.
    pub fn single<V: Display>(&mut self, name: &str, kind: Kind, help: &str, value: V) {
        self.metric(name, kind, help, [(Vec::new(), value)]);
    }

    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], self.0).into_response()
    }
}

/// The label of a folder: the beginning of its id, which tells nobody its name.
#[must_use]
pub fn folder_label(id_hex: &str) -> Vec<(&'static str, String)> {
    vec![("folder", id_hex.get(..8).unwrap_or(id_hex).to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_escaped_labels_and_their_metric_is_described() {
        let mut page = Exposition::default();
        page.metric(
            "a_total",
            Kind::Counter,
            "What.",
            [(vec![("x", "\"\\\n".to_owned()), ("y", String::new())], 7)],
        );
        page.single("b", Kind::Gauge, "That.", 1.5);
        assert_eq!(
            page.into_text(),
            "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n\",y=\"\"} 7\n\
             # HELP b That.\n# TYPE b gauge\nb 1.5\n"
        );
    }
}
