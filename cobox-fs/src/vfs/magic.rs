//! `.cobox/status.json`: what the daemon says about the folder, as text.

use super::Vfs;

impl Vfs {
    /// The text as of now; an empty object where no daemon gave a source.
    pub(super) fn status_text(&self) -> String {
        let source = self.status.read().clone();
        let mut text = source.map_or_else(|| String::from("{}"), |source| source.status_json());
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}
