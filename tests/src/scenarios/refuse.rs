//! Bad input and bad hosts: each a clear message, the right exit code, and nothing left behind.

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::guest::veneer::{Veneer, image};
use crate::s3::BUCKET;
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "refuse",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let s3 = &veneer.s3;
    s3.make_bucket("refuse-bucket")?;
    let good = std::fs::read(format!("/srv/s3/{BUCKET}/images/golang/5.tar"))?;
    let put = |key: &str, content: &[u8]| s3.put("refuse-bucket", key, content);
    put("gap/1.tar", &good)?;
    put("gap/3.tar", &good)?;
    put("strange/1.tar", &good)?;
    put("strange/readme.txt", b"not a layer")?;
    put(
        "text/1.tar",
        b"this is no tar, and it is long enough to be asked for its header".repeat(20).as_slice(),
    )?;
    put("cut/1.tar", &good[..good.len() / 2])?;

    let cases: [(&str, i32, &str); 8] = [
        ("s3://refuse-bucket/nothing/", 100, "nothing"),
        ("s3://refuse-bucket/gap/", 100, "2"),
        ("s3://refuse-bucket/strange/", 100, "readme.txt"),
        ("s3://refuse-bucket/text/", 100, "text/1.tar"),
        ("s3://refuse-bucket/cut/", 100, "cut/1.tar"),
        ("s3://no-such-bucket/images/", 100, "no-such-bucket"),
        ("s3://Bad_Bucket/images/", 100, "Bad_Bucket"),
        ("http://bucket/images/", 100, "s3://"),
    ];
    for (image, code, said) in cases {
        let ran = veneer.cmd(&["activate", image, "--name", "x"]).run()?;
        let ran = ran.expect_message(code, said)?;
        let lines = ran.stderr.lines().filter(|line| line.contains("fatal")).count();
        ensure!(lines == 1 && ran.stdout.is_empty(), "one line that says why: {ran}");
        veneer.check()?;
    }
    let one_template = veneer.pool.pool().ids()?;
    ensure!(one_template.len() == 1, "only the template is there: {one_template:?}");

    // A wrong digest, by hand.
    let object = format!("s3://{BUCKET}/images/golang/5.tar");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let fetch = guest.cmd("fetch").args([&object, "--digest", &wrong]);
    veneer.s3.environment(fetch).run()?.expect_message(100, "digest")?;

    // No permission: the signed server does not know this caller.
    let signed = guest.s3_signed()?;
    let denied = veneer
        .cmd(&["ensure", &image("golang")])
        .env("AWS_ENDPOINT_URL", signed.url())
        .env("AWS_ACCESS_KEY_ID", "somebody")
        .env("AWS_SECRET_ACCESS_KEY", "else")
        .run()?;
    denied.expect(100)?;

    // A name that the pool's own builds need.
    let work = veneer.cmd(&["activate", &image("golang"), "--name", "veneer-work-7"]);
    work.run()?.expect_message(100, "veneer-work-7")?;

    // A server that is not there may be there later.
    let dead = veneer.cmd(&["ensure", &image("golang"), "--endpoint", "http://127.0.0.1:9"]);
    dead.env("VENEER_FETCH_PATIENCE", "3").run()?.expect_message(111, "127.0.0.1:9")?;

    // No such pool, which may come up by itself; and nobody but root.
    let other = guest.scratch().join("other");
    let missing =
        veneer.cmd(&["ls"]).env("VENEER_STORE", "thin:nowhere").env("VENEER_STATE", &other);
    missing.run()?.expect_message(111, "nowhere")?;
    ensure!(!other.exists(), "a state directory was made for a pool that is not there");
    let nobody = veneer.cmd(&["ls"]).env("VENEER_STATE", "/tmp/nobody").user(65534);
    nobody.run()?.expect_message(100, "root")?;

    let registry = guest.cmd("registry").arg("--state").arg(&other).args(["check"]);
    registry.run()?.expect_message(100, "no registry")?;

    veneer.check()?;
    veneer.close()?;
    Ok(Report::new().figure("cases", cases.len() + 7))
}
