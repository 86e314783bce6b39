//! Hashes a tar stream, and the files in it, on a thread of its own, out of the buffers they came
//! in: the writer hands each buffer on when it is done with it, with notes of which parts belong
//! to files, and the buffer goes back to whoever fills it.

use std::sync::mpsc::{Receiver, Sender, SyncSender};

use crate::pipeline::Diff;
use crate::twin::Twin;

/// A note about a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// These bytes are the next part of the current file.
    Part { from: usize, to: usize },
    /// The current file ends.
    End,
}

/// A buffer that the writer is done with.
pub(crate) type Noted = (Vec<u8>, Vec<Note>);

/// Hashes until there is no more; digests of files come out in their order.
pub(crate) fn hash(
    noted: Receiver<Noted>,
    digests: Sender<[u8; 32]>,
    empty: SyncSender<Vec<u8>>,
) -> Diff {
    let mut twin = Twin::new();
    let mut bytes = 0;
    for (buffer, notes) in noted {
        bytes += buffer.len() as u64;
        twin.update(&buffer, &notes, |digest| match digests.send(digest) {
            // Whoever asked has gone only when the layer was refused.
            Ok(()) | Err(_) => {}
        });
        match empty.try_send(buffer) {
            // The filler may have reached the end of the stream; the digests are still wanted.
            Ok(()) | Err(_) => {}
        }
    }
    Diff { digest: twin.finish(), bytes }
}
