//! Errors of the API: RFC 9457 problem details whose sentences and exit codes are those of the command line.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A body that is being sent for longer is given up.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// The HTTP status: 400 for exit code 2, 500 for 1, 504 for 3, 403 for 4, 422 for 5; and what HTTP
    /// itself has to say (401, 404, 405, 413, 415, 503).
    pub status: u16,
    /// The exit code in a word: `failed`, `usage`, `not-reached`, `refused`, `damaged`.
    pub title: String,
    /// What happened, as a sentence.
    pub detail: String,
    /// What to do about it, as a sentence; empty where there is nothing to do.
    pub hint: String,
    /// The exit code with which the command line would end.
    pub exit: u8,
}

impl Fault {
    /// A fault with an exit code of the command line.
    pub fn of_exit(exit: u8, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let (status, title) = match exit {
            2 => (400, "usage"),
            3 => (504, "not-reached"),
            4 => (403, "refused"),
            5 => (422, "damaged"),
            _ => (500, "failed"),
        };
        Self { status, title: title.to_owned(), detail: detail.into(), hint: hint.into(), exit }
    }

    /// It did not work.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self::of_exit(1, detail, "")
    }

    /// The request makes no sense.
    pub fn usage(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of_exit(2, detail, hint)
    }

    /// It is not allowed.
    pub fn refused(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of_exit(4, detail, hint)
    }

    /// What is named does not exist.
    pub fn missing(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: 404, ..Self::of_exit(1, detail, hint) }
    }

    /// Too much is being done already.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self { status: 503, ..Self::of_exit(3, detail, "Try again in a moment.") }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body, whole within ten seconds.
pub struct Input<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        match tokio::time::timeout(BODY_WAIT, Json::<T>::from_request(request, state)).await {
            Ok(Ok(Json(body))) => Ok(Self(body)),
            Ok(Err(rejection)) => Err(not_understood(&rejection)),
            Err(_) => Err(Fault::usage("The request's body did not come in time.", "").with_status(408)),
        }
    }
}

fn not_understood(rejection: &JsonRejection) -> Fault {
    let text = rejection.body_text();
    let fault = Fault::usage(
        format!("The request is not understood: {}.", text.trim_end_matches('.')),
        "The document at /openapi.json says what each request holds.",
    );
    match rejection.status().as_u16() {
        status @ (413 | 415) => fault.with_status(status),
        _ => fault,
    }
}

/// What the query says.
pub struct Wanted<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Wanted<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(wanted) = query.map_err(|rejection| {
            Fault::usage(
                format!("The query is not understood: {}.", rejection.body_text().trim_end_matches('.')),
                "",
            )
        })?;
        Ok(Self(wanted))
    }
}

/// What the path names.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        let Path(named) = path.map_err(|rejection| {
            Fault::usage(
                format!("The path is not understood: {}.", rejection.body_text().trim_end_matches('.')),
                "",
            )
        })?;
        Ok(Self(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_code_has_a_status_of_its_own() {
        let statuses: std::collections::BTreeSet<u16> =
            (1..=5).map(|exit| Fault::of_exit(exit, "", "").status).collect();
        assert_eq!(statuses.len(), 5);
        let response = Fault::refused("No.", "Ask.").into_response();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
