//! Alarms that go out for real: a web server and a mail server on loopback take them, refuse them, hang and come back.
//!
//! Mail goes through the system's `sendmail`, which here is a small SMTP client on the daemon's path: what a daemon
//! hands over, and what becomes of it, is what is looked at.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cobox_tests::process::{Device, Said, until};
use serde_json::Value;

fn json(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// How a server treats who comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Takes,
    /// 500, or 550.
    Refuses,
    /// It takes the connection and says nothing.
    Hangs,
}

/// A server that counts who came, and keeps what it took.
struct Listener {
    port: u16,
    mood: Arc<Mutex<Mood>>,
    came: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Answers on a thread for as long as the test runs.
    fn new(port: u16, mood: Mood, answer: fn(TcpStream, Mood) -> Option<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let made =
            Self { port, mood: Arc::new(Mutex::new(mood)), came: Arc::default(), taken: Arc::default() };
        let (mood, came, taken) = (Arc::clone(&made.mood), Arc::clone(&made.came), Arc::clone(&made.taken));
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.expect("accepts");
                came.fetch_add(1, Ordering::SeqCst);
                let mood = *mood.lock().expect("nobody panicked");
                if mood == Mood::Hangs {
                    held.push(stream);
                } else if let Some(text) = answer(stream, mood) {
                    taken.lock().expect("nobody panicked").push(text);
                }
            }
        });
        made
    }

    fn web(port: u16, mood: Mood) -> Self {
        Self::new(port, mood, answer_http)
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().expect("nobody panicked") = mood;
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("nobody panicked").clone()
    }
}

fn answer_http(stream: TcpStream, mood: Mood) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let (mut length, mut head) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let status = if mood == Mood::Takes { "204 No Content" } else { "500 Internal Server Error" };
    write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    assert!(head.starts_with("POST "), "{head}");
    assert!(head.contains("Content-Type: application/json"), "{head}");
    (mood == Mood::Takes).then(|| String::from_utf8(body).expect("text"))
}

fn answer_smtp(stream: TcpStream, mood: Mood) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let say = |text: &str| write!(&stream, "{text}\r\n").ok();
    say("220 here")?;
    let mut letter = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "DATA" => {
                say("354 go on")?;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).ok()?;
                    if line == ".\r\n" {
                        break;
                    }
                    letter.push_str(&line);
                }
                say("250 taken")?;
            }
            "RCPT" if mood == Mood::Refuses => say("550 nobody of that name")?,
            "QUIT" => {
                say("221 bye")?;
                return Some(letter);
            }
            _ => say("250 yes")?,
        }
    }
}

/// A `sendmail -i -t` that hands its letter to the SMTP server at `port`, in a folder for the path.
fn sendmail(dir: &Path, port: u16) -> std::path::PathBuf {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).expect("makes a folder");
    let program = bin.join("sendmail");
    let text = format!(
        "#!/usr/bin/env python3\nimport email, smtplib, sys\n\
         assert sys.argv[1:] == ['-i', '-t'], sys.argv\n\
         letter = email.message_from_bytes(sys.stdin.buffer.read())\n\
         smtp = smtplib.SMTP('127.0.0.1', {port}, timeout=120)\n\
         try:\n\
         \x20 smtp.send_message(letter, 'daemon@localhost', [letter['To']])\n\
         except smtplib.SMTPException as error:\n\
         \x20 sys.exit(str(error))\n\
         smtp.quit()\n"
    );
    fs::write(&program, text).expect("writes");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("sets the mode");
    bin
}

/// A device with a folder that wants a copy and has no seeder: an alarm that lasts.
fn device(dir: &Path, path: Option<&Path>) -> Device {
    let mut device = Device::set_up(dir, "device");
    start(&mut device, path);
    device.ctl(&["folder", "create", "docs"]).ok();
    device
}

fn start(device: &mut Device, path: Option<&Path>) {
    let before = std::env::var("PATH").unwrap_or_default();
    let with = path.map_or_else(|| before.clone(), |path| format!("{}:{before}", path.display()));
    device.start_with(&[("PATH", &with)]);
}

/// What a daemon says of alarms that have not arrived.
fn undelivered(device: &Device) -> bool {
    let shown = json(&device.ctl(&["folder", "show", "docs", "--json"]).ok());
    let alarms = shown["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().any(|alarm| alarm["what"].as_str().is_some_and(|text| text.contains("not delivered yet")))
}

#[test]
fn alarm_reaches_a_web_address_and_a_mailbox_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (web, mail) = (Listener::web(0, Mood::Takes), Listener::new(0, Mood::Takes, answer_smtp));
    let path = sendmail(dir.path(), mail.port);
    let device = device(dir.path(), Some(&path));
    let url = format!("http://127.0.0.1:{}/hook?key=1", web.port);
    let set = ["alarm", "set", "--url", &url, "--mail", "anna@example.org", "--after", "0s"];
    device.ctl(&set).ok();
    until("both have it", || !web.taken().is_empty() && !mail.taken().is_empty());
    let notice: Value = serde_json::from_str(&web.taken()[0]).expect("JSON");
    assert_eq!((&notice["what"], &notice["folder"]), (&"red".into(), &"docs".into()), "{notice}");
    let letter = mail.taken()[0].clone();
    for wanted in
        ["To: anna@example.org", "Subject: CoBox: docs: 0 of 1 copies are proved", "The device device"]
    {
        assert!(letter.contains(wanted), "{wanted}: {letter}");
    }
    assert!(!undelivered(&device));
    // Once, and not again with the next looks or after a restart.
    let mut device = device;
    device.stop();
    start(&mut device, Some(&path));
    let tested = json(&device.ctl(&["alarm", "test", "--json"]).ok());
    assert_eq!(tested["problems"], serde_json::json!([]), "{tested}");
    until("the test is there", || web.taken().len() == 2 && mail.taken().len() == 2);
    assert!(web.taken()[1].contains("nothing is wrong"), "{:?}", web.taken());
}

#[test]
fn alarm_that_is_refused_is_kept_over_a_restart_and_delivered_when_it_is_taken() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (web, mail) = (Listener::web(0, Mood::Refuses), Listener::new(0, Mood::Refuses, answer_smtp));
    let path = sendmail(dir.path(), mail.port);
    let mut device = device(dir.path(), Some(&path));
    let url = format!("http://127.0.0.1:{}/", web.port);
    device.ctl(&["alarm", "set", "--url", &url, "--mail", "anna@example.org", "--after", "0s"]).ok();
    until("both were tried", || web.came() > 0 && mail.came() > 0 && undelivered(&device));
    let problems = json(&device.ctl(&["alarm", "test", "--json"]))["problems"].to_string();
    assert!(problems.contains("500") && problems.contains("550"), "{problems}");
    device.kill();
    [&web, &mail].iter().for_each(|server| server.set(Mood::Takes));
    start(&mut device, Some(&path));
    until("both have it", || web.taken().len() == 1 && mail.taken().len() == 1);
    assert!(web.taken()[0].contains("\"red\""), "{:?}", web.taken());
    until("nothing waits", || !undelivered(&device));
}

#[test]
fn web_server_that_hangs_holds_up_neither_the_mail_nor_the_daemon() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (web, mail) = (Listener::web(0, Mood::Hangs), Listener::new(0, Mood::Takes, answer_smtp));
    let path = sendmail(dir.path(), mail.port);
    let mut device = device(dir.path(), Some(&path));
    let url = format!("http://127.0.0.1:{}/", web.port);
    device.ctl(&["alarm", "set", "--url", &url, "--mail", "anna@example.org", "--after", "0s"]).ok();
    until("the web server is asked", || web.came() > 0);
    until("the mail is there", || mail.taken().len() == 1);
    // What comes after it is noticed, told and delivered by the other way while the server hangs.
    device.ctl(&["folder", "create", "second"]).ok();
    until("the next mail is there", || mail.taken().len() == 2);
    assert_eq!(web.came(), 1, "it is still waited for");
    assert_eq!(web.taken(), Vec::<String>::new());
    // Nor does it hold up the end, and the next start asks again.
    device.stop();
    web.set(Mood::Takes);
    start(&mut device, Some(&path));
    until("the web server has both", || web.taken().len() == 2);
    assert_eq!(mail.taken().len(), 2, "mail that was delivered is not sent again");
}

#[test]
fn web_server_that_is_off_or_speaks_no_tls_gets_nothing_and_is_said_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path(), None);
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let test = |url: &str| {
        device.ctl(&["alarm", "set", "--url", url, "--after", "1d"]).ok();
        let said = device.ctl(&["alarm", "test", "--json"]);
        json(&said)["problems"].to_string()
    };
    let refused = test(&format!("http://127.0.0.1:{gone}/"));
    assert!(refused.contains("curl ended with"), "{refused}");
    assert!(refused.contains("(7)"), "{refused}");
    // A server that speaks no TLS where TLS is asked for is not spoken to without it.
    let plain = Listener::new(0, Mood::Takes, |stream, _| {
        let mut bytes = [0; 16];
        let mut stream = stream;
        let _ = stream.read(&mut bytes);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        Some(String::from_utf8_lossy(&bytes).into_owned())
    });
    let problem = test(&format!("https://127.0.0.1:{}/secret", plain.port));
    assert!(problem.contains("curl ended with"), "{problem}");
    until("it was asked", || !plain.taken().is_empty());
    assert!(plain.taken().iter().all(|said| !said.contains("POST") && !said.contains("secret")));
}
