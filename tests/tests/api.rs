//! The HTTP API and the metrics of both programs, over real sockets: every route answers as the document
//! describes, errors are the command line's sentences, and nobody gets in who should not.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cobox_tests::api::Api;
use cobox_tests::http::{conforms, exchange, request, tcp, unix};
use cobox_tests::process::{Device, Said, Seeder, can_mount, free_port, program, until};
use serde_json::{Value, json};

/// The folder's name; it stands in no metric and no log line.
const NAME: &str = "plumtree";

/// An event that does not come within this has failed the test.
const EVENT_LIMIT: Duration = Duration::from_secs(60);

fn device(dir: &Path) -> Device {
    named(dir, "device")
}

fn named(dir: &Path, name: &str) -> Device {
    let mut device = Device::new(dir, name);
    let words = dir.join(format!("{name}-words"));
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", name, "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device
}

fn said_json(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Begins to read the event stream.
fn listen(api: &Api) -> BufReader<std::os::unix::net::UnixStream> {
    let mut stream = unix(&api.socket);
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sends");
    let mut reader = BufReader::new(stream);
    wait_line(&mut reader, ": listening");
    api.seen.borrow_mut().insert(("get".to_owned(), "/v1/events".to_owned()));
    reader
}

fn wait_line(reader: &mut impl std::io::BufRead, begin: &str) -> String {
    let mut line = String::new();
    let started = Instant::now();
    loop {
        // In silence a comment comes now and then, so that reading alone does not end.
        assert!(started.elapsed() < EVENT_LIMIT, "{begin:?} did not come");
        line.clear();
        assert!(reader.read_line(&mut line).expect("reads") > 0, "the stream ended before {begin:?}");
        if let Some(rest) = line.strip_prefix(begin) {
            return rest.trim().to_owned();
        }
    }
}

/// Waits for an event of a kind, checks it against the document, and returns it.
fn wait_event(api: &Api, reader: &mut impl std::io::BufRead, what: &str) -> Value {
    loop {
        let data: Value = serde_json::from_str(&wait_line(reader, "data: ")).expect("JSON");
        conforms(&api.document, &json!({ "$ref": "#/components/schemas/News" }), &data, "news");
        if data["what"] == what {
            return data;
        }
    }
}

#[test]
fn every_route_of_the_daemon_answers_as_its_document_says() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let api = Api::of_device(&device);
    assert_eq!(said_json(&device.ctl(&["api", "openapi", "--json"]).ok()), api.document);
    let folder = api.ok("post", "/v1/folders", "/v1/folders", Some(&json!({ "name": NAME })));
    let id = folder["id"].as_str().expect("an id").to_owned();
    let mut events = listen(&api);
    let at = |rest: &str| (format!("/v1/folders/{{folder}}{rest}"), format!("/v1/folders/{id}{rest}"));
    let grant = json!({ "address": seeder.address(), "quota_bytes": 1u64 << 30 });
    let (template, path) = at("/seeders");
    api.ok("post", &template, &path, Some(&grant));
    wait_event(&api, &mut events, "peer-up");
    let (template, path) = at("/wait");
    let waited = api.ok("post", &template, &path, Some(&json!({ "copies": 1 })));
    assert_eq!(waited["copies_proved"], 1);
    assert_eq!(wait_event(&api, &mut events, "copies-changed")["folder"], id.as_str());
    // A folder is found by its name, too.
    let by_name = api.ok("get", "/v1/folders/{folder}", &format!("/v1/folders/{NAME}"), None);
    assert_eq!(by_name["id"], id.as_str());
    let (template, path) = at("");
    let patched = api.ok("patch", &template, &path, Some(&json!({ "tolerance_ms": 86_400_000 })));
    assert_eq!((&patched["tolerance_ms"], &patched["copies_wanted"]), (&json!(86_400_000), &json!(1)));
    for rest in ["/seeders", "/peers", "/last-sync", "/members", "/invites"] {
        let (template, path) = at(rest);
        api.ok("get", &template, &path, None);
    }
    for rest in ["/audit", "/check"] {
        let (template, path) = at(rest);
        api.ok("post", &template, &path, None);
    }
    let exported = api.ok("get", &at("/export").0, &at("/export").1, None);
    assert_eq!(exported["seeders"][0]["address"], grant["address"]);
    api.ok("post", "/v1/folders", "/v1/folders", Some(&json!({ "name": "second" })));
    let import = json!({ "seeders": exported["seeders"] });
    let imported = api.ok("post", "/v1/folders/{folder}/import", "/v1/folders/second/import", Some(&import));
    assert!(imported["seeders"][0]["problem"].is_null(), "{imported}");
    agreements(&api, &id);
    people(dir.path(), &api, &id);
    mounts(&api, &device);
    for path in [
        "/v1/folders",
        "/v1/mounts",
        "/v1/status",
        "/v1/keys",
        "/v1/system",
        "/v1/connections",
        "/v1/alarm",
        "/v1/health",
        "/healthz",
    ] {
        api.get(path);
    }
    let metrics = api.call("get", "/metrics", "/metrics", None).body;
    let proved = format!("cobox_copies_proved{{folder=\"{}\"}} 1\n", &id[..8]);
    assert!(metrics.contains(&proved) && metrics.contains("cobox_proved_age_seconds{"), "{metrics}");
    let logs = api.ok("get", "/v1/logs", "/v1/logs?lines=1000", None);
    assert!(logs["lines"].as_array().is_some_and(|lines| !lines.is_empty()));
    for text in [&metrics, &logs.to_string()] {
        assert!(!text.contains(NAME) && !text.contains(device.home.to_str().expect("text")), "{text}");
    }
    faults(&api);
    callers_mistakes(&api, NAME);
    boxes(&api, &seeder, &id);
    leave(&api, &device, &id);
    api.assert_all_were_tried();
}

/// Agreements, and codes that bring a seeder in.
fn agreements(api: &Api, id: &str) {
    let path = format!("/v1/folders/{id}");
    let template = "/v1/folders/{folder}/agreements";
    let terms = json!({
        "quota_bytes": 2u64 << 30, "from_ms": 0, "until_ms": 0, "notice_ms": 1000, "audit_ms": 86_400_000,
        "place": "Leipzig", "organisation": "", "contact": "", "member_contact": "",
    });
    let seeder = api.ok("get", "/v1/folders/{folder}/seeders", &format!("{path}/seeders"), None);
    let seeder = seeder["seeders"][0]["peer_id"].as_str().expect("an id").to_owned();
    let body = json!({ "seeder": seeder, "terms": terms });
    let proposed = api.ok("post", template, &format!("{path}/agreements"), Some(&body));
    assert_eq!(proposed["agreement"]["stage"], "proposed");
    until("both have signed", || {
        let list = api.ok("get", template, &format!("{path}/agreements"), None);
        list["agreements"][0]["stage"] == "agreed"
    });
    assert_eq!(api.get("/v1/agreements")["agreements"][0]["place"], "Leipzig");
    let accept = "/v1/folders/{folder}/agreements/{id}/accept";
    let none = format!("{path}/agreements/{}/accept", "0".repeat(16));
    assert_eq!(api.fails("post", accept, &none, None), (404, 1), "a proposal is not ours to accept");
    let end = "/v1/folders/{folder}/agreements/{seeder}";
    let one = format!("{path}/agreements/{seeder}");
    assert_eq!(api.fails("delete", end, &one, None), (403, 4), "no other copy is proved");
    let code = json!({ "quota_bytes": 1u64 << 20 });
    let template = "/v1/folders/{folder}/seed-codes";
    let opened = api.ok("post", template, &format!("{path}/seed-codes"), Some(&code));
    let list = api.ok("get", template, &format!("{path}/seed-codes"), None);
    assert_eq!((&list["codes"][0]["key"], &list["codes"][0]["state"]), (&opened["key"], &json!("open")));
    assert!(!list.to_string().contains(opened["code"].as_str().expect("a code")), "a list shows a code");
    let one = format!("{path}/seed-codes/{}", opened["key"].as_str().expect("a key"));
    let voided = api.ok("delete", "/v1/folders/{folder}/seed-codes/{code}", &one, None);
    assert_eq!(voided["codes"][0]["state"], "void");
}

/// Commanding a seeder: list, replicate and unreplicate as its admin.
fn boxes(api: &Api, seeder: &Seeder, id: &str) {
    let boxes = "/v1/admin/seeders";
    let code = said_json(&seeder.run(&["claim", "--json"]).ok())["code"].clone();
    api.ok("post", boxes, boxes, Some(&json!({ "code": code, "name": "box" })));
    assert_eq!(api.fails("post", boxes, boxes, Some(&json!({ "code": "coboxclaim1no" }))), (400, 2));
    assert_eq!(api.get(boxes)["seeders"][0]["rank"], "owner");
    let order = |order: Value| {
        let template = "/v1/admin/seeders/{seeder}/orders";
        api.ok("post", template, "/v1/admin/seeders/box/orders", Some(&order))
    };
    let held = order(json!({ "order": "status" }))["answer"]["folders"].clone();
    assert!(held.as_array().expect("folders").iter().any(|folder| folder["folder"] == id), "{held}");
    let refused = order(json!({ "order": "seed", "what": "0011" }));
    assert_eq!(refused["outcome"], "failed", "nothing of that name waits: {refused}");
    // An agreement binds the seeder's owner, too.
    assert_eq!(order(json!({ "order": "unseed", "folder": id }))["outcome"], "failed");
    assert_eq!(order(json!({ "order": "unseed", "folder": "second" }))["outcome"], "done");
    api.ok("delete", "/v1/admin/seeders/{seeder}", "/v1/admin/seeders/box", None);
    assert_eq!(api.get(boxes)["seeders"], json!([]));
}

/// Ending a seeder's grant, giving space back, and leaving folders.
fn leave(api: &Api, device: &Device, id: &str) {
    let one = "/v1/folders/{folder}";
    let conflicts =
        api.ok("get", "/v1/folders/{folder}/conflicts", &format!("/v1/folders/{id}/conflicts"), None);
    assert_eq!(conflicts["folders"][0]["conflicts"], json!([]));
    assert_eq!(api.get("/v1/conflicts")["folders"].as_array().map(Vec::len), Some(2));
    let settle = ("/v1/conflicts/settle", json!({ "path": "/nowhere", "keep": "this" }));
    assert_eq!(api.fails("post", settle.0, settle.0, Some(&settle.1)), (404, 1));
    let dry = json!({ "dry_run": true });
    let pruned = api.ok("post", "/v1/folders/{folder}/prune", &format!("/v1/folders/{id}/prune"), Some(&dry));
    assert_eq!(pruned["state"], "looked");
    if can_mount("every_route_of_the_daemon_answers_as_its_document_says (leave)") {
        let dir = device.mount.to_str().expect("a temporary path is text");
        let wanted = json!({ "folder": "second", "dir": dir });
        api.ok("post", "/v1/mounts", "/v1/mounts", Some(&wanted));
        std::fs::write(device.mount.join("only here"), b"a line").expect("writes");
        let held = std::fs::File::open(device.mount.join("only here")).expect("opens");
        assert_eq!(api.fails("delete", one, "/v1/folders/second", None), (403, 4), "no copy is proved");
        let forced = "/v1/folders/second?force=true";
        let (status, _) = api.fails("delete", one, forced, None);
        assert_eq!(status, 403, "a program uses the mount");
        drop(held);
        assert_eq!(std::fs::read(device.mount.join("only here")).expect("reads"), b"a line");
        api.ok("delete", one, forced, None);
    } else {
        api.ok("delete", one, "/v1/folders/second?force=true", None);
    }
    assert_eq!(api.fails("get", one, "/v1/folders/second", None), (404, 1));
    // Ending the grant of the only seeder is refused, and done where it is meant.
    let seeders = ("/v1/folders/{folder}/seeders", "/v1/folders/{folder}/seeders/{seeder}");
    let path = format!("/v1/folders/{id}/seeders");
    let list = api.ok("get", seeders.0, &path, None);
    let peer_id = list["seeders"][0]["peer_id"].as_str().expect("an id");
    let seeder = format!("{path}/{peer_id}");
    assert_eq!(api.fails("delete", seeders.1, &seeder, None), (403, 4));
    // What was agreed on is not broken: its notice comes first.
    assert_eq!(api.fails("delete", seeders.1, &format!("{seeder}?force=true"), None), (403, 4));
    let (all, agreements) = ("/v1/folders/{folder}/agreements", format!("/v1/folders/{id}/agreements"));
    api.ok("delete", &format!("{all}/{{seeder}}"), &format!("{agreements}/{peer_id}?force=true"), None);
    until("notice has passed", || api.ok("get", all, &agreements, None)["agreements"][0]["stage"] == "ended");
    let ended = api.ok("get", seeders.0, &path, None)["seeders"][0]["problem"].to_string();
    assert!(ended.contains("has ended"), "{ended}");
    let removed = api.ok("delete", seeders.1, &format!("{seeder}?force=true"), None);
    assert_eq!(removed["copies_left"], 0, "{removed}");
    let left = api.ok("delete", one, &format!("/v1/folders/{id}?force=true"), None);
    assert_eq!(left["id"], id);
    assert_eq!(api.get("/v1/folders")["folders"], json!([]));
    let said = device.ctl(&["folder", "leave", NAME]);
    assert_eq!(said.code, 1, "{said:?}");
}

/// Invites, joining and removing, between two daemons over their APIs alone.
fn people(dir: &Path, api: &Api, id: &str) {
    let other = named(dir, "other");
    let theirs = Api::of_device(&other);
    let path = format!("/v1/folders/{id}");
    let invite = |role: &str| {
        let body = json!({ "role": role });
        api.ok("post", "/v1/folders/{folder}/invites", &format!("{path}/invites"), Some(&body))
    };
    let first = invite("read");
    let joined = theirs.ok("post", "/v1/join", "/v1/join", Some(&json!({ "code": first["code"] })));
    assert_eq!(joined["id"], id);
    let list = api.ok("get", "/v1/folders/{folder}/invites", &format!("{path}/invites"), None);
    assert!(!list.to_string().contains(first["code"].as_str().expect("a code")), "a list shows a code");
    let second = invite("write");
    let name = second["invite"].as_str().expect("a name");
    api.ok("delete", "/v1/folders/{folder}/invites/{invite}", &format!("{path}/invites/{name}"), None);
    let people = api.ok("get", "/v1/folders/{folder}/members", &format!("{path}/members"), None);
    let all = people["members"].as_array().expect("members");
    let member = all.iter().find(|member| member["here"] == false).expect("the other one");
    let member = member["id"].as_str().expect("an id");
    let one = format!("{path}/members/{member}");
    let template = "/v1/folders/{folder}/members/{member}";
    api.ok("patch", template, &one, Some(&json!({ "role": "write" })));
    let own = "/v1/folders/{folder}/devices/{device}";
    assert_eq!(api.fails("delete", own, &format!("{path}/devices/device"), None), (403, 4));
    let removed = api.ok("delete", template, &one, None);
    assert_eq!(removed["rotated"], true, "{removed}");
    let code = json!({ "code": "cobox1nonsense" });
    assert_eq!(theirs.fails("post", "/v1/join", "/v1/join", Some(&code)), (400, 2));
    // The route itself was tried on the other device.
    api.seen.borrow_mut().extend(theirs.seen.take());
}

fn mounts(api: &Api, device: &Device) {
    let dir = device.mount.to_str().expect("a temporary path is text");
    let body = json!({ "folder": NAME, "dir": dir });
    if can_mount("every_route_of_the_daemon_answers_as_its_document_says (mounts)") {
        api.ok("post", "/v1/mounts", "/v1/mounts", Some(&body));
        let list = api.get("/v1/mounts");
        assert_eq!(list["mounts"][0]["mount"]["dir"], dir);
        api.ok("delete", "/v1/mounts", &format!("/v1/mounts?dir={dir}"), None);
    }
    let missing = json!({ "folder": NAME, "dir": format!("{dir}/none") });
    assert_eq!(api.fails("post", "/v1/mounts", "/v1/mounts", Some(&missing)), (403, 4));
    assert_eq!(api.fails("delete", "/v1/mounts", &format!("/v1/mounts?dir={dir}"), None), (404, 1));
    assert_eq!(api.fails("delete", "/v1/mounts", "/v1/mounts", None), (400, 2));
}

/// What is refused, and how: the status says which exit code the command line would end with.
fn faults(api: &Api) {
    let wait = ("/v1/folders/{folder}/wait", format!("/v1/folders/{NAME}/wait"));
    let waits = |body: Value| api.fails("post", wait.0, &wait.1, Some(&body));
    assert_eq!(waits(json!({ "copies": 9 })), (504, 3));
    assert_eq!(waits(json!({ "copies": 0 })), (400, 2));
    assert_eq!(waits(json!({ "copies": "many" })), (400, 2));
    assert_eq!(waits(json!({})), (400, 2));
    let one = "/v1/folders/{folder}";
    assert_eq!(api.fails("get", one, "/v1/folders/nosuch", None), (404, 1));
    let patch = json!({ "copies": 0 });
    assert_eq!(api.fails("patch", one, &format!("/v1/folders/{NAME}"), Some(&patch)), (400, 2));
    let seeders = ("/v1/folders/{folder}/seeders", format!("/v1/folders/{NAME}/seeders"));
    let grant = json!({ "address": "nonsense", "quota_bytes": 1 });
    assert_eq!(api.fails("post", seeders.0, &seeders.1, Some(&grant)), (400, 2));
    let send = |text: String| exchange(unix(&api.socket), &text);
    assert_eq!(send(request("GET", "/v1/nothing", &[], None)).status, 404);
    assert_eq!(send(request("DELETE", "/v1/status", &[], None)).status, 405);
    let long = json!({ "name": "x".repeat(65 * 1024) });
    assert_eq!(send(request("POST", "/v1/folders", &[], Some(&long))).status, 413);
    let form = "POST /v1/folders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\nname=x";
    assert_eq!(send(form.to_owned()).status, 415);
    assert_eq!(send(request("GET", "/v1/status", &[("X-Long", &"x".repeat(40_000))], None)).status, 431);
}

/// Asks for what does not exist, at every path with every method, and with bodies that say nothing or the wrong thing: all
/// of it is the caller's mistake, and none the program's.
fn callers_mistakes(api: &Api, folder: &str) {
    let bodies = [
        None,
        Some(json!({})),
        Some(json!([])),
        Some(json!({ "role": "read", "keep": "this", "path": "/nowhere", "order": "status" })),
        Some(
            json!({ "seeder": "zz", "code": "zz", "address": "zz", "name": "", "quota_bytes": 0, "role": "read", "valid_ms": 0,
            "terms": { "quota_bytes": 1, "from_ms": 0, "until_ms": 0, "notice_ms": 0, "audit_ms": 1, "place": "",
                "organisation": "", "contact": "", "member_contact": "" } }),
        ),
    ];
    let paths = api.document["paths"].as_object().expect("paths");
    for template in paths.keys() {
        for (word, query) in
            [("zz", ""), ("zz", "?dir=/nowhere&seeder=zz"), ("%00", "?force=zz&now=zz"), ("%ff", "")]
        {
            let named = template.split('/').map(|part| match part {
                "{folder}" => folder,
                other if other.starts_with('{') => word,
                other => other,
            });
            let path = named.collect::<Vec<_>>().join("/") + query;
            for (method, body) in ["GET", "POST", "PUT", "PATCH", "DELETE"]
                .iter()
                .flat_map(|method| bodies.iter().map(move |body| (method, body)))
            {
                let is_told = template.ends_with("/healthz") || template.ends_with("/events");
                let goes = *method == "DELETE" && template.ends_with("/{folder}");
                if is_told && *method == "GET" || goes {
                    continue;
                }
                let text = request(method, &path, &[], body.as_ref());
                let answer = exchange(unix(&api.socket), &text);
                assert!(answer.status < 500, "{method} {path} {body:?}: {answer:?}");
            }
        }
    }
}

#[test]
fn every_route_of_the_seeder_answers_as_its_document_says() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    device.ctl(&["folder", "create", NAME]).ok();
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.accept = "owner";
    seeder.start();
    let api = Api::of(seeder.data.join("api.sock"));
    assert_eq!(std::fs::metadata(&api.socket).expect("there").mode() & 0o777, 0o600);
    let printed: Value = serde_json::from_str(
        &cobox_tests::process::run(std::process::Command::new(program("cobox-seeder")).arg("openapi"))
            .ok()
            .out,
    )
    .expect("JSON");
    assert_eq!(printed, api.document);
    let mut events = listen(&api);
    let soon = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970") + Duration::from_secs(3 * 86_400);
    let soon = cobox_net::shown::time(soon.as_millis().try_into().expect("milliseconds"));
    device.ctl(&["seeder", "add", NAME, &seeder.address(), "--quota", "1G", "--until", &soon[..10]]).ok();
    let id = wait_event(&api, &mut events, "grant-waits")["now"].as_str().expect("an id").to_owned();
    assert_eq!(api.get("/v1/pending")["grants"][0]["id"], id.as_str());
    let decide =
        |what: &str, id: &str| (format!("/v1/pending/{{id}}/{what}"), format!("/v1/pending/{id}/{what}"));
    let (template, path) = decide("refuse", "ffff");
    assert_eq!(api.fails("post", &template, &path, None), (404, 1));
    let (template, path) = decide("accept", &id[..16]);
    assert_eq!(api.fails("post", &template, &path, None), (403, 4), "terms that nobody named");
    let (template, path) = decide("accept", &id);
    assert_eq!(api.ok("post", &template, &path, None)["answer"], "accepted");
    let (template, path) = decide("refuse", &id);
    assert_eq!(api.fails("post", &template, &path, None), (404, 1), "it waits no more");
    device.ctl(&["wait", NAME, "--copies", "1", "--timeout", "60s"]).ok();
    let status = api.get("/v1/status");
    let folder = status["folders"][0]["folder"].as_str().expect("an id").to_owned();
    for path in ["/v1/connections", "/v1/system", "/v1/logs", "/healthz"] {
        api.get(path);
    }
    let metrics = api.call("get", "/metrics", "/metrics", None).body;
    for wanted in [
        format!("cobox_grant_quota_bytes{{folder=\"{}\"}} {}\n", &folder[..8], 1u64 << 30),
        format!("cobox_grant_until_seconds{{folder=\"{}\"}} 1", &folder[..8]),
        format!("cobox_grant_heard_age_seconds{{folder=\"{}\"}} ", &folder[..8]),
        "cobox_refusals_total{what=\"quota\"} 0\n".to_owned(),
        "cobox_connections 1\n".to_owned(),
    ] {
        assert!(metrics.contains(&wanted), "{wanted}: {metrics}");
    }
    assert!(!metrics.contains(NAME));
    let warned = wait_event(&api, &mut events, "grant-warning");
    assert_eq!((&warned["now"], &warned["folder"]), (&"ends".into(), &folder.clone().into()), "{warned}");
    let folder_id = folder;
    orders_of_the_owner(&api, &device, &folder_id);
    callers_mistakes(&api, "zz");
    api.assert_all_were_tried();
}

/// What the owner has a seeder do over HTTP.
fn orders_of_the_owner(api: &Api, device: &Device, folder: &str) {
    let (one, path) = ("/v1/folders/{folder}", format!("/v1/folders/{}", &folder[..10]));
    assert_eq!(api.get("/v1/folders")["folders"][0]["folder"], folder);
    assert_eq!(api.ok("get", one, &path, None)["folder"], folder);
    assert_eq!(api.fails("get", one, "/v1/folders/ffff0000", None), (404, 1));
    let quota = |bytes: u64| json!({ "quota_bytes": bytes, "until_ms": 0 });
    assert_eq!(api.ok("patch", one, &path, Some(&quota(1 << 29)))["quota_bytes"], 1u64 << 29);
    assert_eq!(api.fails("patch", one, &path, Some(&quota(0))), (400, 2));
    let agreement = ("/v1/folders/{folder}/agreement", format!("{path}/agreement"));
    assert_eq!(api.fails("delete", agreement.0, &agreement.1, None), (403, 4), "none is in force");
    assert_eq!(api.get("/v1/agreements")["agreements"], json!([]));
    // A pause ends the session, and a resumption brings it back.
    api.ok("post", "/v1/pause", "/v1/pause", None);
    assert_eq!(api.get("/v1/status")["paused"], true);
    assert_eq!(api.get("/v1/report")["paused"], true);
    until("nobody has the folder open", || api.ok("get", one, &path, None)["peers"] == 0);
    api.ok("post", "/v1/resume", "/v1/resume", None);
    until("the device is back", || api.ok("get", one, &path, None)["peers"] == 1);
    // An admin, and one that is not.
    let key = "11".repeat(32);
    let admin = ("/v1/admins/{key}", format!("/v1/admins/{key}"));
    assert_eq!(api.get("/v1/admins")["admins"], json!([]));
    assert_eq!(api.fails("delete", admin.0, &admin.1, None), (403, 4), "it is not said that it is meant");
    assert_eq!(api.fails("delete", admin.0, &format!("{}?yes=true", admin.1), None), (404, 1));
    // Unreplicate, and replicate by a code.
    api.ok("delete", one, &path, None);
    assert_eq!(api.ok("get", one, &path, None)["leaving"]["why"], "unseeded");
    device.ctl(&["folder", "create", "second"]).ok();
    let code = said_json(&device.ctl(&["seeder", "code", "second", "--quota", "1G", "--json"]).ok());
    let all = "/v1/folders";
    assert_eq!(api.fails("post", all, all, Some(&json!({ "code": "zz" }))), (400, 2));
    let taken = api.ok("post", all, all, Some(&json!({ "code": code["code"] })));
    let asked = format!("/v1/codes/{}", taken["key"].as_str().expect("a key"));
    until("the folder of the code is held", || {
        api.ok("get", "/v1/codes/{key}", &asked, None)["waiting"] == false
    });
    until("it is listed", || api.get(all)["folders"].as_array().map(Vec::len) == Some(2));
}

#[test]
fn tcp_lets_in_who_shows_the_token_and_no_web_page() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device(dir.path());
    device.ctl(&["folder", "create", NAME]).ok();
    assert_eq!(device.ctl(&["api", "listen", "0.0.0.0:0"]).code, 4);
    assert_eq!(device.ctl(&["api", "listen", "localhost:80"]).code, 2);
    let address = format!("127.0.0.1:{}", free_port());
    let shown = said_json(&device.ctl(&["api", "listen", &address, "--json"]).ok());
    assert_eq!(shown["listen"], address.as_str());
    let file = Path::new(shown["token_file"].as_str().expect("a file"));
    assert_eq!(std::fs::metadata(file).expect("there").mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(file).expect("reads");
    let bearer = format!("Bearer {}", token.trim());
    let ask =
        |headers: &[(&str, &str)]| exchange(tcp(&address), &request("GET", "/v1/status", headers, None));
    let good = [("Host", address.as_str()), ("Authorization", bearer.as_str())];
    assert_eq!(ask(&good).status, 200);
    let wrong = format!("{bearer}0");
    for (headers, status) in [
        (vec![("Host", address.as_str())], 401),
        (vec![("Host", address.as_str()), ("Authorization", &wrong)], 401),
        (vec![("Host", "rebound.example"), ("Authorization", &bearer)], 421),
        (vec![("Host", "127.0.0.1:1"), ("Authorization", &bearer)], 421),
        ([&good[..], &[("Origin", "https://elsewhere.example")]].concat(), 403),
        ([&good[..], &[("Origin", "null")]].concat(), 403),
        ([&good[..], &[("Sec-Fetch-Site", "cross-site")]].concat(), 403),
    ] {
        let answer = ask(&headers);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        assert!(!answer.body.contains(NAME), "{answer:?}");
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");
    }
    // It is there again after a restart, and gone when it is switched off.
    device.stop();
    device.start();
    until("the API answers on TCP again", || std::net::TcpStream::connect(&address).is_ok());
    assert_eq!(ask(&good).status, 200);
    slow(&address, &device, &good);
    device.ctl(&["api", "off"]).ok();
    assert!(std::net::TcpStream::connect(&address).is_err(), "it still listens");
    let socket = unix(&device.home.join("run/api.sock"));
    assert_eq!(exchange(socket, &request("GET", "/v1/status", &[], None)).status, 200);
}

/// Connections that send nothing, or a letter now and then, take no more than their share: the socket answers
/// meanwhile, and TCP answers once they are given up.
fn slow(address: &str, device: &Device, good: &[(&str, &str)]) {
    let mut held: Vec<_> = (0..60).map(|_| tcp(address)).collect();
    for stream in held.iter_mut().step_by(2) {
        stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").expect("sends");
    }
    let socket = device.home.join("run/api.sock");
    assert_eq!(exchange(unix(&socket), &request("GET", "/healthz", &[], None)).status, 503);
    // A body that never comes.
    let length = ("Content-Length", "10");
    let head = request(
        "POST",
        "/v1/folders",
        &[good, &[length, ("Content-Type", "application/json")]].concat(),
        None,
    );
    let mut waits = tcp(address);
    waits.write_all(head.as_bytes()).expect("sends");
    let mut answer = String::new();
    waits.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert_eq!(exchange(tcp(address), &request("GET", "/v1/status", good, None)).status, 200);
    let mut rest = Vec::new();
    held[1].read_to_end(&mut rest).expect("it was closed");
}

#[test]
fn seeder_listens_on_loopback_with_a_token_and_nowhere_else_unless_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("seeder");
    let run = |http: &[&str]| {
        let mut command = std::process::Command::new(program("cobox-seeder"));
        command.arg("run").arg("--data").arg(&data).args(["--listen", "/ip4/127.0.0.1/tcp/0"]).args(http);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let refused = cobox_tests::process::run(&mut run(&["--http", "0.0.0.0:0"]));
    assert!(refused.code == 4 && refused.err.contains("not encrypted"), "{refused:?}");
    assert_eq!(cobox_tests::process::run(&mut run(&["--http", "here"])).code, 2);
    assert_eq!(cobox_tests::process::run(&mut run(&["--http-remote"])).code, 2);
    let address = format!("127.0.0.1:{}", free_port());
    let mut child = run(&["--http", &address]).spawn().expect("starts");
    until("the API answers", || std::net::TcpStream::connect(&address).is_ok());
    let token = std::fs::read_to_string(data.join("api.token")).expect("a token");
    let bearer = format!("Bearer {}", token.trim());
    let ask = |headers: &[(&str, &str)]| exchange(tcp(&address), &request("GET", "/metrics", headers, None));
    let metrics = ask(&[("Host", &address), ("Authorization", &bearer)]);
    let without = ask(&[("Host", &address)]);
    child.kill().expect("ours");
    child.wait().expect("ours");
    assert!(metrics.status == 200 && metrics.body.contains("cobox_folders 0\n"), "{metrics:?}");
    assert_eq!(without.status, 401);
    assert_eq!(without.header("www-authenticate"), Some("Bearer"));
}
