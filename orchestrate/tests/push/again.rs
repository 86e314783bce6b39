//! An image in a bucket that is asked for again by its tag: one question whether the index is another by now.

use crate::image::Layout;
use crate::standin::StandIn;
use crate::{Room, url};

const TO: &str = "oci:s3://bkt/images/app/:v2";
const OTHER: &str = "oci:s3://bkt/images/app/:v3";

/// What was asked since the last time, with the status of each answer.
fn asked(standin: &StandIn) -> Vec<(String, u16)> {
    let asked = standin.requests();
    standin.spare();
    asked
}

#[test]
fn the_index_is_sent_again_only_where_it_is_another() {
    let (room, standin) = (Room::new(), StandIn::start());
    let url = url(&standin);
    let layout = Layout::new(&room.path("layout"), "v1", &[1, 2]);
    let from = format!("oci:{}:v1", layout.dir.display());
    room.ok(&url, &["push", &from, TO]);
    let index = |status| vec![("GET /bkt/images/app/index.json".to_owned(), status)];
    assert_eq!(room.ok(&url, &["ensure", TO])["chain"], layout.chain.as_str());
    asked(&standin);
    for words in [&["ensure", TO][..], &["activate", TO, "--name", "a-1"], &["ensure", TO, "-n"]] {
        room.ok(&url, words);
        assert_eq!(asked(&standin), index(304), "{words:?}");
    }
    // Up already it is asked nothing at all.
    room.ok(&url, &["activate", TO, "--name", "a-1"]);
    assert_eq!(asked(&standin), []);
    // Another tag of the index: it is sent once, and not again.
    room.ok(&url, &["push", &from, OTHER]);
    asked(&standin);
    room.ok(&url, &["ensure", TO]);
    assert_eq!(asked(&standin), index(200));
    room.ok(&url, &["ensure", TO]);
    assert_eq!(asked(&standin), index(304));
    // The tag means another image by now.
    let second = Layout::new(&room.path("second"), "v1", &[1, 3]);
    room.ok(&url, &["push", &format!("oci:{}:v1", second.dir.display()), TO]);
    assert_eq!(room.ok(&url, &["ensure", TO])["chain"], second.chain.as_str());
    // Another platform is another choice, and a server that was not asked before has told no tag.
    asked(&standin);
    let (code, said) = room.fails(&url, &["ensure", TO, "--platform", "linux/riscv64"]);
    assert_eq!(code, 100, "{said}");
    assert_eq!(asked(&standin)[0], index(200)[0]);
    let twin = StandIn::start();
    for key in standin.keys() {
        twin.put(&key, &standin.get(&key).unwrap());
    }
    room.ok(&crate::url(&twin), &["ensure", TO]);
    assert_eq!(twin.requests()[0], index(200)[0]);
}
