//! The last lines of the program's own log, for `/v1/logs`: what went to standard error, without colours.

use std::collections::VecDeque;
use std::io;

use parking_lot::Mutex;

/// Lines kept: an hour of a busy program.
pub const LINES_MAX: usize = 1000;
/// Bytes of one line that are kept: what is longer is somebody's long list.
const LINE_BYTES_MAX: usize = 1000;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Takes the lines of a `tracing` layer, which writes each at once; make it with colours off.
#[derive(Clone, Copy, Default, Debug)]
pub struct Recorder;

impl io::Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = LINES.lock();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if lines.len() >= LINES_MAX {
                lines.pop_front();
            }
            let end = line.char_indices().nth(LINE_BYTES_MAX).map_or(line.len(), |(at, _)| at);
            lines.push_back(line.get(..end).unwrap_or(line).to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The newest lines, oldest first.
#[must_use]
pub fn lines(most: usize) -> Vec<String> {
    let lines = LINES.lock();
    lines.iter().skip(lines.len().saturating_sub(most)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn newest_lines_are_kept_and_long_ones_are_cut() {
        for number in 0..LINES_MAX + 5 {
            Recorder.write_all(format!("line {number}\n").as_bytes()).expect("memory");
        }
        Recorder.write_all("ä".repeat(5000).as_bytes()).expect("memory");
        let last = lines(2);
        assert_eq!(last[0], format!("line {}", LINES_MAX + 4));
        assert_eq!(last[1].chars().count(), LINE_BYTES_MAX);
        assert_eq!(lines(usize::MAX).len(), LINES_MAX);
    }
}
