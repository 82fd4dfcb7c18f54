//! Ingest into the store, and replication of 1 GiB from a device to a seeder on loopback, over TCP and
//! over QUIC: two processes' worth of work on this machine's cores, the seeder a real process.
//!
//! Compare with `transport` (the wire alone) and `pipeline` (sealing alone) of the same run. On a machine that
//! does something else too, wall time says little: the processor time of both ends, spread over the cores,
//! is what a quiet machine needs at least.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_benches::{load, random_bytes};
use cobox_net::{FolderSecrets, NetConfig, Node};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::pack::ChunkType;
use cobox_store::keyed::{End, Folder, Home, Unlock};
use zeroize::Zeroizing;

const FILE_BYTES: usize = 1 << 30;
const PIECE_BYTES: usize = 64 << 20;
const LIMIT: Duration = Duration::from_secs(300);

type Failure = Box<dyn std::error::Error>;

struct Seeder(Child);

impl Drop for Seeder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> Result<(), Failure> {
    println!("load {}; 1 GiB of incompressible data", load());
    let dir = tempfile::tempdir()?;
    let (home, _words) =
        Home::init(&dir.path().join("home"), "bench", Unlock::KeyFile(dir.path().join("key")))?;
    let folder = home.folder_create("bench")?;
    let data = random_bytes(1, PIECE_BYTES);
    let start = Instant::now();
    ingest(&folder, &data)?;
    print_rate("chunk + seal + pack + store, one thread", start);
    // The name of one of them as an argument measures that one alone.
    let only = std::env::args().nth(1);
    let both = [("TCP", "/ip4/127.0.0.1/tcp/0"), ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1")];
    for (name, listen) in both.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        replicate(&home, &folder, dir.path(), name, listen)?;
    }
    Ok(())
}

fn print_rate(what: &str, start: Instant) {
    println!("{what:<44} {:>8.0} MB/s", FILE_BYTES as f64 / 1e6 / start.elapsed().as_secs_f64());
}

/// Sixteen pieces that differ, so that nothing is deduplicated.
fn ingest(folder: &Folder, data: &[u8]) -> Result<(), Failure> {
    let mut data = data.to_vec();
    for piece in 0..FILE_BYTES / PIECE_BYTES {
        for at in (0..data.len()).step_by(4096) {
            data[at] = data[at].wrapping_add(1 + piece as u8);
        }
        let mut at = 0;
        while let Some(len) = folder.chunker().next_cut(&data[at..], End::Last) {
            folder.stow(folder.seal(ChunkType::Data, &data[at..at + len]))?;
            at += len;
        }
    }
    let groups = vec![OpGroup { hlc: 1, ops: vec![Op::Ack] }];
    folder.write_entries(1, groups, Vec::new(), Default::default())?;
    Ok(())
}

fn replicate(home: &Home, folder: &Arc<Folder>, dir: &Path, name: &str, listen: &str) -> Result<(), Failure> {
    let data = dir.join(format!("seeder-{name}"));
    let program = std::env::current_exe()?.with_file_name("cobox-seeder");
    let mut command = Command::new(&program);
    command.args(["run", "--accept", "any", "--listen", listen, "--data"]).arg(&data);
    let seeder = Seeder(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let address = seeder_address(&program, &data)?;
    folder.grant_seeder(&address, 1 << 40, 0)?;
    let (start, busy) = (Instant::now(), cpu_seconds(std::process::id()) + cpu_seconds(seeder.0.id()));
    let node = Node::start(home.store().clone(), home.net_key()?, NetConfig::default())?;
    node.add_folder(secrets(folder)?);
    node.set_peers(folder.no(), vec![address]);
    while !node.status(folder.no())?.peers.iter().any(cobox_net::PeerStatus::is_caught_up) {
        if start.elapsed() > LIMIT {
            return Err(
                format!("{name}: the seeder has not caught up: {:?}", node.status(folder.no())?).into()
            );
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    print_rate(&format!("device to seeder, {name}"), start);
    let busy = cpu_seconds(std::process::id()) + cpu_seconds(seeder.0.id()) - busy;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let bound = FILE_BYTES as f64 / 1e6 / busy * cores;
    println!(
        "  processor time of both ends: {busy:.2} s; {bound:.0} MB/s if they had the cores to themselves"
    );
    print_peak_memory(&seeder);
    node.shutdown();
    Ok(())
}

fn secrets(folder: &Arc<Folder>) -> Result<FolderSecrets, Failure> {
    let signer = Arc::clone(folder);
    Ok(FolderSecrets {
        no: folder.no(),
        swarm: vec![Zeroizing::new(*folder.swarm_secret()?.expose())],
        signer: Arc::new(move |transcript| signer.sign_session(transcript)),
        log: folder.log(),
    })
}

fn seeder_address(program: &PathBuf, data: &Path) -> Result<SeederAddress, Failure> {
    let start = Instant::now();
    loop {
        let output = Command::new(program).arg("address").arg("--data").arg(data).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(address) = text.lines().last().and_then(|line| SeederAddress::from_text(line).ok()) {
            return Ok(address);
        }
        if start.elapsed() > LIMIT {
            return Err("the seeder does not say its address".into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// User and system time of a process so far, in the kernel's hundredths of seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields after the name, which may have spaces and stands in parentheses.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / 100.0
}

fn print_peak_memory(seeder: &Seeder) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", seeder.0.id())).unwrap_or_default();
    if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("  the seeder's peak memory: {}", line.trim_start_matches("VmHWM:").trim());
    }
}
