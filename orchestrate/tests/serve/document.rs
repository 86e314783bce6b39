//! `docs/openapi.json` against the running daemon: each path and method answers with a status that is
//! documented, and with fields of the documented types; and the daemon knows no path beside it.

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::daemon::{Answer, Daemon};

struct Document(Value);

impl Document {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(path) => self.0.pointer(path.strip_prefix('#').unwrap()).expect(path),
            None => schema,
        }
    }

    /// Why `value` is not of this schema; the part of JSON Schema that the document uses.
    fn differs(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(any) = schema["anyOf"].as_array() {
            let mut whys = any.iter().map(|schema| self.differs(schema, value, at));
            return match whys.any(|why| why.is_none()) {
                true => None,
                false => Some(format!("{at}: none of anyOf: {value}")),
            };
        }
        let is = |word: &str| match word {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("the document has a type {other}"),
        };
        let fits = match &schema["type"] {
            Value::Null => true,
            Value::String(word) => is(word),
            Value::Array(words) => words.iter().any(|word| is(word.as_str().unwrap())),
            other => panic!("{other}"),
        };
        if !fits {
            return Some(format!("{at}: {value} is not {}", schema["type"]));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Some(format!("{at}: {value} is none of {words:?}"));
        }
        if let Some(map) = value.as_object() {
            let required = schema["required"].as_array().into_iter().flatten();
            for name in required {
                if !map.contains_key(name.as_str().unwrap()) {
                    return Some(format!("{at}: no {name} in {value}"));
                }
            }
            for (name, inner) in map {
                let at = format!("{at}.{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Null) if schema["properties"].is_null() => {}
                    (Value::Null, Value::Object(_)) => {}
                    (Value::Null, _) => return Some(format!("{at}: not in the document")),
                    (property, _) => {
                        if let Some(why) = self.differs(property, inner, &at) {
                            return Some(why);
                        }
                    }
                }
            }
        }
        let items = value.as_array().filter(|_| !schema["items"].is_null()).into_iter().flatten();
        items
            .enumerate()
            .find_map(|(n, item)| self.differs(&schema["items"], item, &format!("{at}[{n}]")))
    }

    /// Holds one answer against the document.
    fn check(&self, method: &str, path: &str, answer: &Answer) {
        let at = format!("{method} {path}: {}", answer.status);
        let operation = &self.0["paths"][path][method.to_lowercase()];
        let response = self.resolve(&operation["responses"][answer.status.to_string()]);
        assert!(response.is_object(), "{at}: not in the document: {answer:?}");
        let Some(content) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{at}: a body");
            return;
        };
        let kind = answer.header("Content-Type").unwrap().split(';').next().unwrap();
        let schema = &content.get(kind).unwrap_or_else(|| panic!("{at}: {kind}"))["schema"];
        let lines: Vec<Value> = match kind {
            "text/plain" | "text/html" => return,
            "application/x-ndjson" => {
                let text = String::from_utf8(answer.body.clone()).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            }
            _ => vec![answer.json()],
        };
        for line in lines {
            if let Some(why) = self.differs(schema, &line, "body") {
                panic!("{at}: {why}");
            }
        }
    }
}

#[test]
fn every_path_and_method_is_as_the_document_has_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let document = Document(daemon.get("/v1/openapi.json"));
    assert_eq!(document.0["openapi"], "3.1.0");
    let (a, b) = ("s3://bucket/a/", "s3://bucket/b/");
    let none = String::new;
    let mut walked = Vec::new();
    let mut ask = |method: &str, path: &str, target: &str, body: String, status: u16| {
        let answer = daemon.ask(method, target, &body);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        // What was only begun may be done by the time it is looked at.
        let done = status == 202 && answer.status == 200;
        assert!(
            done || answer.status == status,
            "{method} {target} {body}: {} {said}",
            answer.status
        );
        document.check(method, path, &answer);
        walked.push((method.to_lowercase(), path.to_owned()));
    };
    for path in ["/", "/healthz", "/readyz", "/metrics", "/v1/openapi.json", "/v1/status"] {
        ask("GET", path, path, none(), 200);
    }
    let images = "/v1/images";
    ask("PUT", images, images, json!({"image": a, "dry_run": true}).to_string(), 200);
    ask("PUT", images, "/v1/images?wait=60s", json!({"image": a}).to_string(), 200);
    ask("PUT", images, images, json!({"image": b}).to_string(), 202);
    ask(
        "PUT",
        images,
        "/v1/images?wait=60",
        json!({"image": "s3://bucket/none/"}).to_string(),
        200,
    );
    for bad in
        ["", "{}", "[]", "{\"image\":7}", "{\"image\":\"x\"}", "{\"image\":\"s3://b/p/\",\"no\":1}"]
    {
        ask("PUT", images, images, bad.into(), 400);
    }
    ask("PUT", images, images, json!({"image": a, "priority": 101}).to_string(), 400);
    ask("GET", images, images, none(), 200);
    ask("GET", images, "/v1/images?image=s3://bucket/a/", none(), 200);
    ask("GET", images, "/v1/images?image=s3://bucket/x/", none(), 404);
    ask("GET", images, "/v1/images?other=1", none(), 400);
    let pin = "/v1/images/pin";
    ask("POST", pin, pin, json!({"image": a, "pinned": true}).to_string(), 200);
    ask("POST", pin, pin, json!({"image": "s3://bucket/x/", "pinned": true}).to_string(), 404);
    let activations = "/v1/activations";
    let one = json!({"id": "one", "image": a}).to_string();
    ask(
        "POST",
        activations,
        activations,
        json!({"id": "one", "image": a, "dry_run": true}).to_string(),
        200,
    );
    ask("POST", activations, "/v1/activations?wait=60s", one.clone(), 200);
    ask("POST", activations, activations, one, 200);
    ask("POST", activations, activations, json!({"id": "two", "image": b}).to_string(), 202);
    ask("POST", activations, activations, json!({"id": "one", "image": b}).to_string(), 409);
    ask("POST", activations, activations, json!({"id": "..", "image": a}).to_string(), 400);
    ask("GET", activations, activations, none(), 200);
    let activation = "/v1/activations/{id}";
    ask("GET", activation, "/v1/activations/one", none(), 200);
    ask("GET", activation, "/v1/activations/none", none(), 404);
    ask("GET", activations, "/v1/activations?label=app&label=tier=x", none(), 200);
    ask("GET", activations, "/v1/activations?label=a%20b", none(), 400);
    let terms = json!({"id": "one", "image": a, "labels": {"a b": "c"}}).to_string();
    ask("POST", activations, activations, terms, 400);
    ask(
        "POST",
        activations,
        activations,
        json!({"id": "one", "image": a, "ttl_s": 0}).to_string(),
        400,
    );
    ask(
        "POST",
        activations,
        activations,
        json!({"id": "one", "image": a, "read_only": true}).to_string(),
        409,
    );
    for (word, good, bad) in [
        ("labels", json!({"labels": {"app": "web", "none": null}}), json!({"labels": {"-": "x"}})),
        ("ttl", json!({"ttl_s": 3600}), json!({})),
        ("rename", json!({"to": "uno"}), json!({"to": "a/b"})),
    ] {
        let path = format!("/v1/activations/{{id}}/{word}");
        ask("POST", &path, &format!("/v1/activations/one/{word}"), good.to_string(), 200);
        ask("POST", &path, &format!("/v1/activations/none/{word}"), good.to_string(), 404);
        let of = if word == "rename" { "uno" } else { "one" };
        ask("POST", &path, &format!("/v1/activations/{of}/{word}"), bad.to_string(), 400);
    }
    ask("GET", activation, "/v1/activations/uno", none(), 200);
    let rename = "/v1/activations/{id}/rename";
    ask("POST", rename, "/v1/activations/uno/rename", json!({"to": "one"}).to_string(), 200);
    let who = "/v1/activations/{id}/who";
    ask("GET", who, "/v1/activations/one/who", none(), 200);
    ask("GET", who, "/v1/activations/none/who", none(), 404);
    // A directory is copied while it is down, and has no size of its own.
    let (resize, fork) = ("/v1/activations/{id}/resize", "/v1/activations/{id}/fork");
    let (points, restore) = ("/v1/activations/{id}/points", "/v1/activations/{id}/restore");
    let gib = json!({"bytes": 5_u64 << 30}).to_string();
    ask("POST", resize, "/v1/activations/one/resize", gib.clone(), 400);
    ask("POST", resize, "/v1/activations/none/resize", gib, 404);
    ask("POST", resize, "/v1/activations/one/resize", "{}".into(), 400);
    ask("POST", fork, "/v1/activations/one/fork", json!({"id": "copy"}).to_string(), 400);
    ask("POST", points, "/v1/activations/one/points", json!({"point": "p"}).to_string(), 400);
    let deactivate = "/v1/activations/{id}/deactivate";
    ask("POST", deactivate, "/v1/activations/one/deactivate?dry_run=1", none(), 200);
    ask("POST", deactivate, "/v1/activations/one/deactivate?wait=60s", none(), 200);
    ask("POST", deactivate, "/v1/activations/none/deactivate", none(), 404);
    let copy = |dry_run: bool| json!({"id": "copy", "dry_run": dry_run}).to_string();
    ask("POST", fork, "/v1/activations/one/fork", copy(true), 200);
    ask("POST", fork, "/v1/activations/one/fork", copy(false), 200);
    let other = json!({"id": "other"}).to_string();
    ask("POST", fork, "/v1/activations/none/fork", other, 404);
    let point = |point: &str| json!({"point": point}).to_string();
    ask("POST", points, "/v1/activations/one/points", point("p"), 200);
    ask("POST", points, "/v1/activations/one/points", point("-"), 400);
    ask("GET", points, "/v1/activations/one/points", none(), 200);
    ask("GET", points, "/v1/activations/none/points", none(), 404);
    ask("POST", restore, "/v1/activations/one/restore", point("p"), 200);
    ask("POST", restore, "/v1/activations/one/restore", point("q"), 400);
    ask("DELETE", points, "/v1/activations/one/points?point=p&dry_run=1", none(), 200);
    ask("DELETE", points, "/v1/activations/one/points?point=p", none(), 200);
    ask("DELETE", points, "/v1/activations/one/points?point=p", none(), 400);
    ask("DELETE", points, "/v1/activations/one/points", none(), 400);
    ask("DELETE", activation, "/v1/activations/copy?wait=60s", none(), 200);
    for path in ["/v1/listing", "/v1/usage", "/v1/pool", "/v1/inventory", "/v1/events"] {
        ask("GET", path, path, none(), 200);
    }
    ask("GET", "/v1/host", "/v1/host", none(), 200);
    // In no fleet; with one in `fleet`.
    ask("GET", "/v1/fleet", "/v1/fleet", none(), 404);
    ask("GET", "/v1/events", "/v1/events?after=2&limit=3&subject=run%201&wait=1s", none(), 200);
    ask("GET", "/v1/events", "/v1/events?after=-1", none(), 400);
    ask("DELETE", activation, "/v1/activations/one?dry_run=1", none(), 200);
    ask("DELETE", activation, "/v1/activations/one?wait=60s", none(), 200);
    ask("DELETE", activation, "/v1/activations/one", none(), 404);
    ask("DELETE", images, "/v1/images?image=s3://bucket/a/&dry_run=1", none(), 200);
    ask("DELETE", images, "/v1/images?image=s3://bucket/a/&wait=60s", none(), 200);
    ask("DELETE", images, "/v1/images?image=s3://bucket/a/", none(), 404);
    ask("DELETE", images, "/v1/images", none(), 400);
    let gc = "/v1/gc";
    ask("POST", gc, "/v1/gc?dry_run=1", json!({"max_used": 50}).to_string(), 200);
    ask("POST", gc, "/v1/gc?wait=60s", none(), 200);
    ask("POST", gc, gc, json!({"max_used": 101}).to_string(), 400);
    ask("POST", gc, gc, "[null, null]".into(), 400);
    // What is not ours goes by its ids and not by a word.
    ask("POST", gc, gc, json!({"purge_foreign": true}).to_string(), 400);
    let runs = "/v1/runs";
    for status in ["all", "live", "queued", "running", "done", "failed", "cancelled"] {
        ask("GET", runs, &format!("/v1/runs?status={status}&limit=5"), none(), 200);
    }
    ask("GET", runs, "/v1/runs?status=odd", none(), 400);
    ask("GET", runs, "/v1/runs?limit=1001", none(), 400);
    let failed = "s3://bucket/none/";
    let failed = daemon.get("/v1/runs?status=failed")["runs"]
        .as_array()
        .and_then(|runs| runs.iter().find(|run| run["subject"] == failed).cloned());
    let failed = failed.expect("the image that is none")["id"].as_u64().unwrap();
    let run = "/v1/runs/{run}";
    ask("GET", run, "/v1/runs/1?wait=1s", none(), 200);
    for unknown in ["99999", "9223372036854775807", "9223372036854775808", "18446744073709551616"] {
        ask("GET", run, &format!("/v1/runs/{unknown}"), none(), 404);
    }
    ask("GET", run, "/v1/runs/1?wait=never", none(), 400);
    ask("POST", "/v1/runs/{run}/cancel", "/v1/runs/1/cancel", none(), 200);
    ask("POST", "/v1/runs/{run}/cancel", "/v1/runs/99999/cancel", none(), 404);
    ask("POST", "/v1/runs/{run}/retry", &format!("/v1/runs/{failed}/retry?wait=60s"), none(), 200);
    ask("POST", "/v1/runs/{run}/retry", "/v1/runs/1/retry", none(), 409);
    let mode = "/v1/mode";
    ask("POST", mode, mode, json!({"mode": "odd"}).to_string(), 400);
    for word in ["drain", "rescue"] {
        ask("POST", mode, mode, json!({"mode": word}).to_string(), 200);
        ask("GET", "/readyz", "/readyz", none(), 503);
        ask("PUT", images, images, json!({"image": a}).to_string(), 503);
    }
    ask("POST", mode, mode, json!({"mode": "normal"}).to_string(), 200);

    // Nothing of the document was left out, and each path says what else it takes.
    for (path, methods) in document.0["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap();
        for method in methods.keys() {
            let there = walked.contains(&(method.clone(), path.clone()));
            assert!(there, "{method} {path} is in the document and was not walked");
        }
        let target = path.replace("{id}", "one").replace("{run}", "1");
        let wrong = ["PATCH", "BREW"].map(|method| daemon.ask(method, &target, ""));
        for answer in wrong {
            assert_eq!(answer.status, 405, "{path}");
            let allow = answer.header("Allow").unwrap().to_lowercase();
            let mut allow: Vec<&str> = allow.split(", ").filter(|word| *word != "head").collect();
            let mut known: Vec<&str> = methods.keys().map(String::as_str).collect();
            allow.sort_unstable();
            known.sort_unstable();
            assert_eq!(allow, known, "{path}");
        }
    }
    daemon.stop();
}
