//! How a verb ends: an exit code that scripts can rely on, and a sentence that a person can act on.

use serde::{Deserialize, Serialize};

/// The documented exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// What was waited for did not come about in time.
    NotReached,
    /// A permission or a policy forbids it.
    Refused,
    /// Damage was found.
    Damaged,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotReached => 3,
            Self::Refused => 4,
            Self::Damaged => 5,
        }
    }
}

/// What is to be known of a problem beside its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing.
    #[default]
    Plain,
    /// What was named does not exist: in HTTP a status of its own.
    Missing,
    /// It would lock its own person out, and is done for whoever says that they are sure.
    Unsure,
}

impl Kind {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// Why a verb did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The exit code it leads to.
    pub code: Exit,
    /// What happened, as a sentence.
    pub message: String,
    /// What to do about it, as a sentence; empty where there is nothing to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// What else is to be known of it.
    #[serde(default, skip_serializing_if = "Kind::is_plain")]
    pub kind: Kind,
}

impl Problem {
    /// A problem with a hint.
    #[must_use]
    pub fn new(code: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), kind: Kind::Plain }
    }

    /// What would lock its own person out, and is done for whoever says that they are sure.
    #[must_use]
    pub fn unsure(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: Kind::Unsure, ..Self::refused(message, hint) }
    }

    /// What was named does not exist.
    #[must_use]
    pub fn missing(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: Kind::Missing, ..Self::failed_with(message, hint) }
    }

    /// Something failed and nothing better than "look at it" can be said.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message, "")
    }

    /// Something failed, and there is something to do about it.
    #[must_use]
    pub fn failed_with(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message, hint)
    }

    /// The command line makes no sense.
    #[must_use]
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    /// A permission or policy forbids it.
    #[must_use]
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message, hint)
    }
}

/// What nearly every function of this crate returns.
pub type Outcome<T> = Result<T, Problem>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let all = [Exit::Done, Exit::Failed, Exit::Usage, Exit::NotReached, Exit::Refused, Exit::Damaged];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5]);
    }
}
