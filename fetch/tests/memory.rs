//! Memory stays the same however large the object is: 16 MiB for one stream, 32 MiB with ranges.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::resource::{UsageWho, getrusage};

/// Serves an object of zeros, of any size, with ranges.
fn serve(size: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, size));
        }
    });
    port
}

fn answer(mut out: TcpStream, size: u64) {
    let mut reader = BufReader::new(out.try_clone().unwrap());
    let zeros = vec![0; 256 << 10];
    loop {
        let (mut line, mut range) = (String::new(), None);
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                let (first, last) = text.trim().split_once('-').unwrap();
                let last: u64 = last.parse().unwrap();
                range = Some((first.parse::<u64>().unwrap(), last.min(size - 1)));
            }
        }
        let (first, last) = range.unwrap_or((0, size - 1));
        let mut left = last - first + 1;
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"zeros\"\r\nContent-Length: {left}\r\n\
             Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        if out.write_all(head.as_bytes()).is_err() {
            return;
        }
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            if out.write_all(&zeros[..count]).is_err() {
                return;
            }
            left -= count as u64;
        }
    }
}

/// Peak of all children so far, KiB; so the smaller one goes first.
fn peak(port: u16, jobs: &str) -> i64 {
    let status = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["s3://bkt/key", "--anonymous", "--jobs", jobs, "--endpoint"])
        .arg(format!("http://127.0.0.1:{port}"))
        .env_clear()
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss()
}

#[test]
fn memory_does_not_grow_with_the_object() {
    // A leak of one buffer per range would show at this size already.
    let mib = std::env::var("VENEER_MEMORY_MIB").map_or(256, |text| text.parse().unwrap());
    let port = serve(mib << 20);
    let single = peak(port, "1");
    let ranges = peak(port, "4");
    println!("{mib} MiB: one stream {single} KiB, four ranges {ranges} KiB");
    assert!(single < 16 << 10, "{single} KiB with one stream");
    assert!(ranges < 32 << 10, "{ranges} KiB with four ranges");
}
