//! The files in `.cobox`: what the daemon says about the folder, as text.

use super::Vfs;
use super::numbers::Report;

impl Vfs {
    /// The text as of now; an empty object where no daemon gave a source.
    pub(super) fn report_text(&self, report: Report) -> String {
        let source = self.status.read().clone();
        let mut text = match (source, report) {
            (Some(source), Report::Status) => source.status_json(),
            (Some(source), Report::Conflicts) => source.conflicts_text(self),
            (Some(source), Report::ConflictsJson) => source.conflicts_json(self),
            (None, _) => String::from("{}"),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}
