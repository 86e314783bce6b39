//! What the server does to a whole run: each of its answers is spoilt once, and then from there on
//! always. Once costs a little; always ends with the right class, after a bounded number of requests,
//! and nothing is left over. And an image that changes while it is fetched, or after.
//!
//! The system calls on the sockets are among those of `sweep`; a single download is `fetch/tests`.

use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tests::guest::proxy::Spoil;
use tests::layer;

use crate::bench::{Bench, Host, names};

const A: &str = "s3://bucket/a/";
const ACTIVATE: &[&str] = &["activate", A, "--name", "a-1"];

/// How an answer is spoilt, and the class of a run that gets no other.
const WAYS: &[(Spoil, &str)] = &[
    (Spoil::Status(503, "SlowDown"), "throttled"),
    (Spoil::Status(500, "InternalError"), "throttled"),
    (Spoil::Cut { after: 0, reset: false }, "temporary"),
    (Spoil::Cut { after: 700, reset: false }, "temporary"),
    (Spoil::Cut { after: 700, reset: true }, "temporary"),
    (Spoil::Stall(700), "temporary"),
];

/// Requests for one object until a run gives up.
const TRIES: usize = 3;

/// At most two layers are on their way, each by a look at its spool's object and a stream.
const REQUESTS: usize = 2 * 2;

fn run(host: &Host<'_>, always: bool) -> std::process::Output {
    let mut command = host.command(ACTIVATE);
    // A stall is waited for no longer; and what is spoilt once may be slow twice, on a busy machine.
    let tries = if always { TRIES } else { 8 };
    command
        .env("VENEER_FETCH_TRIES", tries.to_string())
        .env("VENEER_FETCH_STALL_TIMEOUT", "1")
        .env("VENEER_FETCH_FIRST_BYTE_TIMEOUT", if always { "1" } else { "5" })
        // Small layers are spooled, too.
        .env("VENEER_FETCH_SPOOL_MIN", "0");
    command.output().unwrap()
}

/// One run in which answer `from` is spoilt; gives what is wrong with it.
fn spoilt(bench: &Bench, end: &str, from: usize, always: bool, way: &(Spoil, &str)) -> Vec<String> {
    let host = bench.host("host");
    host.wipe();
    bench.proxy.clear();
    bench.proxy.spoil(from, always, way.0);
    let output = run(&host, always);
    let asked = bench.proxy.exchanges().len();
    bench.proxy.release();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut wrong = Vec::new();
    let mut hold = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{way:?} from {from}, always {always}: {what}: {output:?}"));
        }
    };
    if always {
        let last = String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned);
        let told: Value = serde_json::from_str(&last.unwrap_or_default()).unwrap_or_default();
        hold(output.status.code() == Some(111), "not 111");
        hold(told["error"]["class"] == way.1, "another class");
        hold(said.contains("orchestrate: fatal: "), "says nothing");
        hold(asked <= from + REQUESTS * TRIES, &format!("asked {asked} times"));
    } else {
        hold(output.status.success() && host.end_text() == end, "one spoilt answer fails the run");
    }
    let finished = host.finished();
    bench.proxy.clear();
    let again = run(&host, false);
    hold(again.status.success(), &format!("afterwards: {again:?}"));
    let twice = bench.fetched_again(0, &finished);
    hold(twice.is_empty(), &format!("{twice:?} is fetched again"));
    hold(host.end_text() == end, "not the same end");
    host.check();
    let left = names(&host.state().join("spool"));
    hold(left.is_empty(), &format!("spools are left: {left:?}"));
    wrong
}

#[test]
fn each_answer_is_spoilt_once_and_then_always() {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    let work = || {
        let bench = Bench::small();
        let whole = bench.host("whole");
        whole.ok(ACTIVATE);
        let (end, answers) = (whole.end_text(), bench.proxy.exchanges().len());
        assert!(answers >= 4, "a listing and three layers");
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (way, at) = (at % WAYS.len(), at / WAYS.len());
            let (from, always) = (at % answers, at / answers == 1);
            if at / answers > 1 {
                return;
            }
            let wrong = spoilt(&bench, &end, from, always, &WAYS[way]);
            let mut sum = sum.lock().unwrap();
            sum.0 += 1;
            sum.1.extend(wrong);
        }
    };
    // Most of it is waiting.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let (runs, wrong) = sum.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {runs} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{runs} spoilt answers, every one as it should be");
}

/// One file of this content, below a name that all layers have in common.
fn which_says(content: &str) -> Vec<u8> {
    layer::of(&[("which".into(), content.into())])
}

fn which(host: &Host<'_>, name: &str) -> String {
    std::fs::read_to_string(host.store().join("active").join(name).join("which")).unwrap()
}

/// Twelve layers, the tenth after the ninth, one of them empty, two the same under two keys.
#[test]
fn many_layers_come_in_the_order_of_their_numbers() {
    let bench = Bench::new(&[], 1, 1);
    for number in 1..=12 {
        let content = match number {
            4 => vec![0; 1024],
            // The bytes of the third once more.
            5 => which_says("3"),
            number => which_says(&number.to_string()),
        };
        bench.put(&format!("many/{number}.tar"), &content);
    }
    let host = bench.host("host");
    let done = host.ok(&["activate", "s3://bucket/many/", "--name", "m"]);
    assert_eq!(done["ensured"]["layers"].as_array().unwrap().len(), 12);
    assert_eq!(which(&host, "m"), "12");
    let positions = host.rows("SELECT key FROM image_layers ORDER BY pos");
    let right: Vec<String> = (1..=12).map(|number| format!("many/{number}.tar")).collect();
    assert_eq!(positions, right);
    host.check();
}

#[test]
fn an_object_that_is_replaced_meanwhile_or_afterwards_is_another_layer() {
    let bench = Bench::new(&[], 1, 1);
    let big = |fill: &str| which_says(&fill.repeat(3 << 20));
    bench.put("c/1.tar", &which_says("1"));
    bench.put("c/2.tar", &big("a"));
    let host = bench.host("host");
    let image = "s3://bucket/c/";
    // In the middle of its bytes: what comes then is refused, and the image is listed anew.
    bench.proxy.hold("c/2.tar", 1 << 20);
    let mut running = host.command(&["activate", image, "--name", "one"]);
    let mut running = running.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    bench.proxy.wait_held(std::time::Duration::from_secs(120)).unwrap();
    bench.put("c/2.tar", &big("b"));
    bench.proxy.cut();
    assert!(running.wait().unwrap().success());
    assert!(which(&host, "one").bytes().all(|byte| byte == b'b'), "bytes of two objects");
    // Afterwards: who was made of the old one keeps it.
    bench.put("c/2.tar", &which_says("c"));
    host.ok(&["ensure", image]);
    host.ok(&["activate", image, "--name", "two"]);
    assert_eq!(which(&host, "two"), "c");
    assert!(which(&host, "one").starts_with("bb"));
    host.check();
}
