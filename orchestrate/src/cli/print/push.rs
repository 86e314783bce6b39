//! What a push did, for people.

use orchestrate::Pushed;

use crate::cli::print::text::{mib, put, safe};

pub(crate) fn pushed(done: &Pushed) -> String {
    let mut text = String::new();
    for one in &done.objects {
        let how = match (one.bytes_sent, one.bytes_there) {
            (0, there) if there == one.bytes && there > 0 => "was there",
            (_, 0) => "sent",
            (_, _) => "resumed",
        };
        put(&mut text, format_args!("{how:<9}  {:>12}  {}\n", mib(one.bytes), safe(&one.key)));
    }
    let sent = done.objects.iter().filter(|one| one.bytes_there < one.bytes).count();
    put(
        &mut text,
        format_args!(
            "{}: {} objects, {sent} of them sent, {}; {} were there\n",
            safe(&done.image),
            done.objects.len(),
            mib(done.bytes_sent),
            mib(done.bytes_there)
        ),
    );
    for digest in &done.digests {
        let verb = if done.index_written { "now stands" } else { "stood already" };
        put(&mut text, format_args!("the tag {verb} for {}\n", safe(digest)));
    }
    text
}
