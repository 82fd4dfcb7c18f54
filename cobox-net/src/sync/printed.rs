//! Inputs as logs and failing tests show them: without what they carry.

use super::Input;

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Up { conn, peer, side, .. } => write!(f, "Up({conn:?} {peer} {side:?})"),
            Self::Ending { conn } => write!(f, "Ending({conn:?})"),
            Self::Down { conn } => write!(f, "Down({conn:?})"),
            Self::DialFailed { peer, error } => write!(f, "DialFailed({peer} {error})"),
            Self::HungUp { peer, error } => write!(f, "HungUp({peer} {error})"),
            Self::Frame { conn, frame } => write!(f, "Frame({conn:?} {frame:?})"),
            Self::Folder { no, .. } => write!(f, "Folder({no:?})"),
            Self::FolderGone { no } => write!(f, "FolderGone({no:?})"),
            Self::Peers { no, peers } => write!(f, "Peers({no:?} {})", peers.len()),
            Self::Listening { addresses, .. } => write!(f, "Listening({})", addresses.len()),
            Self::Recall { no, known } => write!(f, "Recall({no:?} {})", known.contacts.len()),
            Self::Seen { peer, .. } => write!(f, "Seen({peer})"),
            Self::Unseen { peer, .. } => write!(f, "Unseen({peer})"),
            Self::Connect { peer, .. } => write!(f, "Connect({peer})"),
            Self::Changed { no } => write!(f, "Changed({no:?})"),
            Self::Fetched { conn, pack, how, .. } => write!(f, "Fetched({conn:?} {pack} {how:?})"),
            Self::Late { conn, late } => write!(f, "Late({conn:?} {late})"),
            Self::Denied { conn, pack, .. } => write!(f, "Denied({conn:?} {pack})"),
            Self::GrantDecided { peer, folder, answer } => {
                write!(f, "GrantDecided({peer} {folder} {answer:?})")
            }
            Self::Papers { no, papers } => write!(f, "Papers({no:?} {})", papers.len()),
            Self::Answered { conn, .. } => write!(f, "Answered({conn:?})"),
            Self::OfferAnswered { peer, folder, answer } => {
                write!(f, "OfferAnswered({peer} {folder} {answer:?})")
            }
            Self::OfferWeighed { peer } => write!(f, "OfferWeighed({peer})"),
            Self::Ask { ticket, peer, .. } => write!(f, "Ask({ticket} {peer})"),
            Self::Tick => write!(f, "Tick"),
        }
    }
}
