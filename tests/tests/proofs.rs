//! Proofs of what a seeder holds, with real programs.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Said, Seeder, can_mount};
use serde_json::Value;

fn json(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Audits without end while packs are written, released, merged and scrubbed, with real programs: what an honest seeder
/// answers is a proof, or it says that something is still on its way.
#[test]
fn audits_of_an_honest_seeder_beside_writes_prunes_and_scrubs_raise_no_alarm() {
    let test = "audits_of_an_honest_seeder_beside_writes_prunes_and_scrubs_raise_no_alarm";
    if !can_mount(test) {
        return;
    }
    let audits = if std::env::var_os("COBOX_SOAK").is_some() { 10_000 } else { 40 };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "10G"]).ok();
    fs::write(device.mount.join("film"), Rng::new(1).bytes(9 << 20)).expect("writes");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let (ended, prunes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut proved, mut on_the_way, mut refused) = (0, 0, 0);
    std::thread::scope(|scope| {
        let _end = Ends(&ended);
        let (device, seeder) = (&device, &seeder);
        scope.spawn(|| {
            let mut rng = Rng::new(2);
            for round in 0u64.. {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                // Small packs for the next prune to merge, and files that it has nothing to keep of.
                let file = device.mount.join(format!("note {}", round % 40));
                fs::write(file, rng.bytes(70_000)).expect("writes");
                // No `wait`, which asks the same seeder over the same connection.
                std::thread::park_timeout(Duration::from_millis(500));
                if round % 6 == 5 {
                    let pruned = device.ctl(&["prune", "docs", "--json"]);
                    prunes.fetch_add(u64::from(json(&pruned)["state"] == "released"), Ordering::SeqCst);
                }
            }
        });
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let said = seeder.run(&["scrub", "--json"]);
                assert!(said.code == 0 && !said.out.contains("\"damaged_packs\":1"), "{said:?}");
            }
        });
        let mut asked = 0;
        while asked < audits || prunes.load(Ordering::SeqCst) < 1 {
            asked += 1;
            // It answers 64 questions of one connection at once, and then four a second.
            std::thread::park_timeout(Duration::from_millis(500));
            let said = device.ctl(&["seeder", "audit", "docs", "--json"]);
            let proof = json(&said)["proofs"][0].clone();
            match (proof["holding"].as_str(), proof["problem"].as_str()) {
                (Some("proved"), None) => proved += 1,
                (_, None) => on_the_way += 1,
                (_, Some(problem)) if problem.contains("does not have everything yet") => on_the_way += 1,
                (_, Some(problem)) if problem.starts_with("It lacks") => on_the_way += 1,
                // Others asked over the same connection.
                (_, Some(problem)) if problem.contains("not reached") => refused += 1,
                other => panic!("a false alarm in audit {asked}: {other:?} {said:?}"),
            }
        }
        println!(
            "{proved} proved, {on_the_way} on the way, {refused} not answered, {} releases",
            prunes.load(Ordering::SeqCst)
        );
    });
    assert!(proved > on_the_way / 10, "{proved} of {audits}");
    let status = json(&device.ctl(&["status", "docs", "--json"]).ok());
    assert_eq!(status["folders"][0]["seeders"][0].get("problem"), None, "{status}");
}

/// Ends the other threads also where this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
