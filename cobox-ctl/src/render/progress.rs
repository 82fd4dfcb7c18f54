//! Progress of long work: a bar on a terminal, a line now and then elsewhere, JSON lines for scripts.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::units;
use crate::report::WaitProgress;

/// A log file does not want a line each moment.
const LINE_PAUSE: Duration = Duration::from_secs(2);
const BAR: &str = "{prefix:<10} [{bar:30}] {msg}";

/// For whom the output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// A person at a terminal.
    Terminal,
    /// A log.
    Lines,
    /// A script.
    Json,
}

impl Style {
    /// The style of this run.
    #[must_use]
    pub fn of(json: bool) -> Self {
        if json {
            Self::Json
        } else if std::io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Lines
        }
    }
}

/// Draws it.
pub struct Progress {
    style: Style,
    bar: Option<ProgressBar>,
    last_line: Option<(Instant, String)>,
}

impl Progress {
    /// Nothing is drawn before the first step.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self { style, bar: None, last_line: None }
    }

    /// A step that has no measure.
    pub fn say(&mut self, what: &str) {
        match self.style {
            Style::Json => println!("{}", serde_json::json!({ "stage": what })),
            Style::Terminal | Style::Lines => eprintln!("{what}"),
        }
    }

    /// A measured step.
    pub fn step(&mut self, step: &WaitProgress) {
        match self.style {
            Style::Json => println!("{}", serde_json::to_string(step).unwrap_or_default()),
            Style::Terminal => self.draw(step),
            Style::Lines => {
                let due = self
                    .last_line
                    .as_ref()
                    .is_none_or(|(last, stage)| last.elapsed() >= LINE_PAUSE || *stage != step.stage);
                if due {
                    self.last_line = Some((Instant::now(), step.stage.clone()));
                    eprintln!("{}: {}", step.stage, message(step));
                }
            }
        }
    }

    fn draw(&mut self, step: &WaitProgress) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(1).with_style(style)
        });
        bar.set_length(step.bytes_total.max(1));
        bar.set_position(step.bytes_done);
        bar.set_prefix(step.stage.clone());
        bar.set_message(message(step));
    }

    /// Takes the bar away.
    pub fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn message(step: &WaitProgress) -> String {
    if step.bytes_total == 0 && step.copies_wanted == 0 && !step.missing.is_empty() {
        return step.missing.clone();
    }
    let amount = if step.stage == "receiving" {
        format!("{} of {}", step.bytes_done, units::entries(step.bytes_total))
    } else {
        format!("{} of {}", units::bytes(step.bytes_done), units::bytes(step.bytes_total))
    };
    let mut text = if step.bytes_total == 0 { "nothing to do yet".to_owned() } else { amount };
    if step.rate > 0 {
        text += &format!(", {}", units::rate(step.rate));
    }
    if let Some(eta_s) = step.eta_s.filter(|_| step.stage == "sending") {
        text += &format!(", {} to go", units::span(Duration::from_secs(eta_s)));
    }
    if step.copies_wanted > 0 {
        text += &format!(", {} of {} copies proved", step.copies_proved, step.copies_wanted);
    }
    if !step.missing.is_empty() {
        text += &format!(" ({})", step.missing);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_amount_rate_rest_and_copies() {
        let step = WaitProgress {
            stage: "sending".into(),
            copies_proved: 0,
            copies_wanted: 1,
            bytes_done: 1 << 20,
            bytes_total: 3 << 20,
            rate: 1_000_000,
            eta_s: Some(2),
            missing: String::new(),
        };
        assert_eq!(message(&step), "1.0 MiB of 3.0 MiB, 976.6 KiB/s, 2.0 s to go, 0 of 1 copies proved");
        let missing = "others are asked what they have".to_owned();
        let asking = WaitProgress { copies_wanted: 0, bytes_total: 0, rate: 0, missing, ..step };
        assert_eq!(message(&asking), "others are asked what they have");
    }
}
