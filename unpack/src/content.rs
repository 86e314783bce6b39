//! Hashes file contents on a thread of its own, out of the buffers they came in: the writer hands
//! each buffer on when it is done with it, with notes of which parts belong to files, and the
//! buffer goes back to whoever fills it.

use std::sync::mpsc::{Receiver, Sender, SyncSender};

use crate::sha::Sha256;

/// A note about a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// These bytes are the next part of the current file.
    Part { from: usize, to: usize },
    /// The current file ends.
    End,
}

/// A buffer that the writer is done with.
pub(crate) type Noted = (Vec<u8>, Vec<Note>);

/// Hashes until there is no more; digests come out in the order of the files.
pub(crate) fn hash(noted: Receiver<Noted>, digests: Sender<[u8; 32]>, empty: SyncSender<Vec<u8>>) {
    let mut hash = Sha256::new();
    for (buffer, notes) in noted {
        for note in notes {
            match note {
                Note::Part { from, to } => hash.update(&buffer[from..to]),
                Note::End => {
                    let whole = std::mem::replace(&mut hash, Sha256::new());
                    // Whoever asked has gone only when the layer was refused.
                    if digests.send(whole.finish()).is_err() {
                        return;
                    }
                }
            }
        }
        if empty.send(buffer).is_err() {
            // The filler has reached the end of the stream; the digests are still wanted.
        }
    }
}
