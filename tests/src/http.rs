//! A small HTTP client over any stream, and a check of answers against an OpenAPI document.
//!
//! The client sends what a test gives it, also what no real client would. The check knows the part of JSON
//! Schema that our documents use, and panics on a word that it does not know rather than passing it over.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// A server that says nothing for so long has failed the test.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// 200 and so on.
    pub status: u16,
    /// In small letters.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Connects to a socket, however long its path.
///
/// # Panics
/// When nobody listens.
#[must_use]
pub fn unix(path: &Path) -> UnixStream {
    let stream = cobox_net::http::socket::with_short_path(path, |short| UnixStream::connect(short));
    let stream = stream.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(ANSWER_WAIT)).expect("a timeout can be set");
    stream
}

/// Connects to an address.
///
/// # Panics
/// When nobody listens.
#[must_use]
pub fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(ANSWER_WAIT)).expect("a timeout can be set");
    stream
}

/// The text of a request that closes the connection.
#[must_use]
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    if !body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    text + "\r\n" + &body
}

/// Sends `text` and reads the answer to its end.
///
/// # Panics
/// When what comes is no answer.
pub fn exchange(mut stream: impl Read + Write, text: &str) -> Answer {
    // A server that refuses early may have closed before it read all.
    drop(stream.write_all(text.as_bytes()));
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "no answer: {error}");
    }
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Answer { status: status.unwrap_or_else(|| panic!("no status: {head}")), headers, body }
}

fn unchunk(mut text: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk begins with its size");
        if size == 0 {
            break;
        }
        body += &rest[..size];
        text = &rest[size + 2..];
    }
    body
}

/// Every operation of a document: method in small letters, and path.
///
/// # Panics
/// When it is no document.
#[must_use]
pub fn operations(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().expect("a document has paths");
    let all = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("a path has methods").keys();
        methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
    });
    all.collect()
}

/// Checks an answer against what the document says of an operation.
///
/// # Panics
/// When it is another answer, saying where.
pub fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &document["paths"][path][method]["responses"];
    let status = answer.status.to_string();
    let described = if responses[&status].is_null() { &responses["default"] } else { &responses[&status] };
    assert!(!described.is_null(), "{method} {path}: {status} is not described: {answer:?}");
    let content = described["content"].as_object();
    let content = content.unwrap_or_else(|| panic!("{method} {path}: no content is described for {status}"));
    let sent = answer.header("content-type").unwrap_or_default();
    let sent = sent.split(';').next().unwrap_or_default();
    // A problem has a media type of its own, with the same schema as the document gives for JSON.
    let wanted = if sent == "application/problem+json" { "application/json" } else { sent };
    let (_, media) = content
        .iter()
        .find(|(name, _)| *name == wanted)
        .unwrap_or_else(|| panic!("{method} {path}: {sent} is not described"));
    if wanted == "application/json" {
        conforms(document, &media["schema"], &answer.json(), &format!("{method} {path}"));
    }
}

/// Checks a value against a schema.
///
/// # Panics
/// When it does not conform, or the schema has a word that is not known here.
pub fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Err(fault) = fault(document, schema, value, at) {
        panic!("{fault}");
    }
}

fn fault(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let words = schema.as_object().ok_or_else(|| format!("{at}: no schema"))?;
    for (word, wanted) in words {
        match word.as_str() {
            "description" | "format" | "default" | "example" => {}
            "$ref" => {
                let name = wanted.as_str().and_then(|text| text.strip_prefix("#/components/schemas/"));
                let name = name.unwrap_or_else(|| panic!("{at}: {wanted} leads nowhere"));
                fault(document, &document["components"]["schemas"][name], value, at)?;
            }
            "oneOf" | "anyOf" => {
                let all = wanted.as_array().expect("a list of schemas");
                let tried: Vec<_> = all.iter().map(|one| fault(document, one, value, at)).collect();
                if !tried.iter().any(Result::is_ok) {
                    return Err(format!("{at}: none of {tried:?}"));
                }
            }
            "allOf" => {
                wanted
                    .as_array()
                    .expect("a list")
                    .iter()
                    .try_for_each(|one| fault(document, one, value, at))?;
            }
            "type" => {
                let of = |name: &Value| is_of(name.as_str().unwrap_or_default(), value);
                let fits = wanted.as_array().map_or_else(|| of(wanted), |names| names.iter().any(of));
                if !fits {
                    return Err(format!("{at}: {value} is not {wanted}"));
                }
            }
            "enum" => {
                if !wanted.as_array().is_some_and(|all| all.contains(value)) {
                    return Err(format!("{at}: {value} is not one of {wanted}"));
                }
            }
            "minimum" => {
                let number = value.as_f64();
                if number.is_some_and(|number| number < wanted.as_f64().unwrap_or(f64::MIN)) {
                    return Err(format!("{at}: {value} is below {wanted}"));
                }
            }
            "required" => {
                for name in wanted.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        return Err(format!("{at}: {name} is missing"));
                    }
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    fault(document, wanted, item, &format!("{at}[{number}]"))?;
                }
            }
            "properties" | "additionalProperties" => fault_of_members(document, words, word, value, at)?,
            other => panic!("{at}: the check does not know the word {other:?}"),
        }
    }
    Ok(())
}

/// What is wrong with the members of an object, by one of the two words that speak of them.
fn fault_of_members(
    document: &Value,
    words: &serde_json::Map<String, Value>,
    word: &str,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    let described = |name: &String| words.get("properties").and_then(|all| all.get(name));
    let others = words.get("additionalProperties");
    for (name, item) in value.as_object().into_iter().flatten() {
        let undescribed = || Err(format!("{at}: {name} is not described"));
        match (word, described(name), others) {
            ("properties", Some(schema), _) => fault(document, schema, item, &format!("{at}.{name}"))?,
            // What is sent is described: a document that leaves something out is wrong, too.
            ("properties", None, None) | (_, None, Some(Value::Bool(false))) => return undescribed(),
            ("properties", None, Some(_)) | (_, Some(_), _) | (_, None, Some(Value::Bool(true))) => {}
            (_, None, Some(schema)) => fault(document, schema, item, &format!("{at}.{name}"))?,
            (_, None, None) => return undescribed(),
        }
    }
    Ok(())
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_differ_from_the_schema_are_found() {
        let document = json!({"components": {"schemas": {"A": {"type": "object", "required": ["n"],
            "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"type": ["string", "null"]},
                "l": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}}}}}});
        let schema = json!({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/A"}]});
        let fits = |value: Value| fault(&document, &schema, &value, "").is_ok();
        assert!(fits(json!(null)) && fits(json!({"n": 1})) && fits(json!({"n": 1, "s": null, "l": ["x"]})));
        for wrong in [
            json!({}),
            json!({"n": -1}),
            json!({"n": 1.5}),
            json!({"n": 1, "s": 2}),
            json!({"n": 1, "l": ["z"]}),
            json!({"n": 1, "more": 1}),
            json!([1]),
        ] {
            assert!(!fits(wrong.clone()), "{wrong}");
        }
    }

    #[test]
    fn chunked_body_is_put_together() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = parse(text);
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }
}
