//! What several programs do together, asked of one over HTTP: a seeder's own offer is agreed to, and a conflict of two
//! devices is listed and settled.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use cobox_net::seeder::identity::Identity;
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::agreement::{Paper, SignedTerms, Terms};
use cobox_store::id::{hex, unhex};
use cobox_tests::api::Api;
use cobox_tests::process::{Device, Seeder, can_mount, until};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

/// The folder's name.
const NAME: &str = "club";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Devices that only dial: with the seeder gone they reach nobody.
fn start_alone(device: &mut Device) -> Api {
    fs::write(device.home.join("network.json"), "{\"listen\": [], \"mdns\": false}").expect("writes");
    device.start_with(&[("COBOX_NETWORK", "")]);
    Api::of_device(device)
}

fn begin(api: &Api, seeder: &Seeder) -> String {
    let folder = api.ok("post", "/v1/folders", "/v1/folders", Some(&json!({ "name": NAME })));
    let grant = json!({ "address": seeder.address(), "quota_bytes": 1u64 << 30 });
    let path = format!("/v1/folders/{NAME}/seeders");
    api.ok("post", "/v1/folders/{folder}/seeders", &path, Some(&grant));
    let wait = format!("/v1/folders/{NAME}/wait");
    api.ok("post", "/v1/folders/{folder}/wait", &wait, Some(&json!({ "copies": 1 })));
    folder["id"].as_str().expect("an id").to_owned()
}

/// Lays terms that nobody proposed before the folder, as a seeder's program may: the one that is here answers proposals.
fn sign_of_its_own_accord(seeder: &Seeder) -> Terms {
    let identity = Identity::open(&seeder.data).expect("a seeder has one");
    let store = Store::open(&seeder.data, StoreKind::Seeder).expect("opens");
    let (no, folder) = store.folders().expect("reads")[0];
    let terms = Terms {
        folder,
        seeder: identity.peer().to_bytes(),
        quota_bytes: 2 << 30,
        from_ms: 0,
        until_ms: 0,
        notice_ms: 30 * DAY_MS,
        audit_ms: DAY_MS,
        place: "Görlitz".to_owned(),
        organisation: "Kollektiv".to_owned(),
        contact: "box@example.org".to_owned(),
        member_contact: String::new(),
    };
    let signature = SigningKey::from_bytes(&identity.seed).sign(&terms.signed_bytes()).to_bytes();
    let paper = Paper::Signed(SignedTerms { terms: terms.clone(), signature });
    store.setting_put(no, "seeder-signed", &paper.encode()).expect("stores");
    terms
}

#[test]
fn offer_that_a_seeder_made_of_its_own_accord_is_agreed_to_over_http() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    let api = Api::of_device(&device);
    begin(&api, &seeder);
    seeder.kill();
    let terms = sign_of_its_own_accord(&seeder);
    seeder.start();

    let all = "/v1/folders/{folder}/agreements";
    let path = format!("/v1/folders/{NAME}/agreements");
    let mut offer = Value::Null;
    until("the offer is there", || {
        offer = api.ok("get", all, &path, None)["agreements"][0].clone();
        offer["stage"] == "offered"
    });
    assert_eq!(offer["id"], terms.hash().to_hex().as_str());
    assert_eq!((&offer["place"], &offer["quota_bytes"]), (&json!("Görlitz"), &json!(2u64 << 30)));
    assert_eq!((&offer["record"], &offer["signed_by"]), (&json!(""), &json!("")), "nobody here signed it");
    let id = offer["id"].as_str().expect("an id");
    let accept = |id: &str| format!("{path}/{id}/accept");
    let template = "/v1/folders/{folder}/agreements/{id}/accept";
    assert_eq!(
        api.fails("post", template, &accept(&id[..7]), None),
        (404, 1),
        "nobody looked at seven letters"
    );
    let agreed = api.ok("post", template, &accept(&id[..8]), None);
    let agreed = &agreed["agreements"][0];
    assert_eq!((&agreed["stage"], &agreed["id"]), (&json!("agreed"), &offer["id"]));
    assert_eq!(agreed["seeder_signature"], offer["seeder_signature"]);
    assert_eq!(api.fails("post", template, &accept(id), None), (404, 1), "what is agreed on is no offer");
    // The seeder has the same text with both signatures, and what it may store is what was agreed.
    until("the seeder has both signatures", || {
        let said = seeder.run(&["agreement", "list", "--json"]).ok();
        let report: Value = serde_json::from_str(&said.out).expect("JSON");
        let view = &report["agreements"][0];
        ["stage", "id", "record", "signed_by"].iter().all(|field| view[field] == agreed[field])
    });
    let seeders = api.ok("get", "/v1/folders/{folder}/seeders", &format!("/v1/folders/{NAME}/seeders"), None);
    assert_eq!(seeders["seeders"][0]["quota_bytes"], 2u64 << 30);
    assert_eq!(seeders["seeders"][0]["agreement"], offer["id"]);
}

/// The open conflicts of the folder.
fn conflicts(api: &Api) -> Vec<Value> {
    let path = format!("/v1/folders/{NAME}/conflicts");
    let report = api.ok("get", "/v1/folders/{folder}/conflicts", &path, None);
    assert_eq!(report, api.get("/v1/conflicts"), "it is the only folder");
    report["folders"][0]["conflicts"].as_array().expect("a list").clone()
}

/// The mount has the same conflict, and people are shown its name as a shell reads it.
fn is_told_elsewhere(device: &Device, conflict: &Value) {
    let list = fs::read_to_string(device.mount.join(".cobox/conflicts.json")).expect("reads");
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["conflicts"][0], *conflict);
    let said = device.ctl(&["conflicts", NAME]).ok();
    assert!(said.out.contains("'minutes'$'\\377'"), "{said:?}");
}

/// Whether all that a device wrote is in entries.
fn is_cut(api: &Api) -> bool {
    let folder = api.ok("get", "/v1/folders/{folder}", &format!("/v1/folders/{NAME}"), None);
    folder["local"]["pending_ops"] == 0 && folder["local"]["dirty_bytes"] == 0
}

#[test]
fn conflict_of_two_devices_that_were_apart_is_listed_and_settled_over_http() {
    if !can_mount("conflict_of_two_devices_that_were_apart_is_listed_and_settled_over_http") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let [mut ann, mut bob] = ["ann", "bob"].map(|name| Device::set_up(dir.path(), name));
    let apis = [start_alone(&mut ann), start_alone(&mut bob)];
    begin(&apis[0], &seeder);
    let invite = json!({ "role": "write" });
    let path = format!("/v1/folders/{NAME}/invites");
    let invite = apis[0].ok("post", "/v1/folders/{folder}/invites", &path, Some(&invite));
    apis[1].ok("post", "/v1/join", "/v1/join", Some(&json!({ "code": invite["code"] })));
    for (api, device) in apis.iter().zip([&ann, &bob]) {
        let wanted = json!({ "folder": NAME, "dir": device.mount });
        api.ok("post", "/v1/mounts", "/v1/mounts", Some(&wanted));
    }
    // No UTF-8: JSON has its bytes in hex.
    let named = OsStr::from_bytes(b"minutes\xff");
    let [first, second] = [&ann, &bob].map(|device| device.mount.join(named));
    fs::write(&first, "of both").expect("writes");
    until("bob has it", || fs::read_to_string(&second).is_ok_and(|text| text == "of both"));
    assert!(apis.iter().all(|api| conflicts(api).is_empty()));

    seeder.kill();
    fs::write(&first, "of ann").expect("writes");
    until("what ann wrote is in her log", || is_cut(&apis[0]));
    fs::write(&second, "of bob").expect("writes");
    until("what bob wrote is in his", || is_cut(&apis[1]));
    assert!(apis.iter().all(|api| conflicts(api).is_empty()), "they are apart");
    seeder.start();
    until("both know of the conflict", || apis.iter().all(|api| conflicts(api).len() == 1));
    let found = apis.each_ref().map(|api| conflicts(api).remove(0));
    assert_eq!(found[0], found[1], "both are told the same");
    let conflict = &found[0];
    assert_eq!(
        (&conflict["path"], &conflict["path_hex"], &conflict["kind"]),
        (&json!("minutes\u{fffd}"), &json!(hex(named.as_bytes())), &json!("versions")),
        "{conflict}"
    );
    is_told_elsewhere(&ann, conflict);
    let devices: Vec<&Value> =
        conflict["acts"].as_array().expect("acts").iter().map(|act| &act["device"]).collect();
    assert_eq!(devices, ["bob", "ann"], "whose version has the name comes first: {conflict}");

    // Ann keeps her own, by the name that shows it; so it is at bob's.
    let other = conflict["acts"][1]["name_hex"].as_str().expect("the other version has a name");
    let other = first.with_file_name(OsStr::from_bytes(&unhex(other).expect("hex")));
    assert_eq!(fs::read_to_string(&other).expect("reads"), "of ann");
    let settle = "/v1/conflicts/settle";
    let elsewhere = json!({ "path": dir.path().join("nowhere"), "keep": "this" });
    assert_eq!(apis[0].fails("post", settle, settle, Some(&elsewhere)), (404, 1));
    assert_eq!(apis[0].fails("post", settle, settle, Some(&json!({ "keep": "this" }))), (400, 2));
    let wanted = json!({ "path_hex": hex(other.as_os_str().as_bytes()), "keep": "this" });
    let kept = apis[0].ok("post", settle, settle, Some(&wanted));
    assert!(kept["path_hex"].is_string(), "{kept}");
    assert_eq!((&kept["folder"], &kept["kept"]), (&json!(NAME), &json!("this")), "{kept}");
    assert!(kept["changes"].as_u64().is_some_and(|changes| changes > 0), "{kept}");
    for (api, path) in apis.iter().zip([&first, &second]) {
        until("one version is left", || {
            conflicts(api).is_empty() && fs::read_to_string(path).is_ok_and(|text| text == "of ann")
        });
        assert_eq!(fs::read_dir(path.parent().expect("a mount")).expect("lists").count(), 1);
    }
    ann.stop();
    bob.stop();
}
