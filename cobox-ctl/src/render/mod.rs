//! Reports as people read them, and progress as it goes.

pub mod conflicts;
pub mod health;
pub mod progress;
pub mod text;
pub mod units;
