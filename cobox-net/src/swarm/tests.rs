//! Nodes beside one another, and what is told of a connection that comes to nothing.

use super::*;

/// Long enough on any machine for what comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn port_that_another_node_listens_on_is_not_shared_with_it() {
    let at = |port: u16| [format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip4/127.0.0.1/udp/{port}/quic-v1")];
    let port = TcpListener::bind(("127.0.0.1", 0)).expect("binds").local_addr().expect("bound").port();
    let start = |seed: u8, addresses: &[String]| {
        let config = NetConfig { listen: addresses.to_vec(), ..NetConfig::default() };
        listen(&Zeroizing::new([seed; 32]), &config, Arc::default())
    };
    let first = start(1, &at(port)).expect("it is free");
    for address in at(port) {
        let taken = start(2, std::slice::from_ref(&address)).err().expect("the first listens there");
        let text = crate::seeder::chain(&taken);
        assert_eq!(text, format!("another program listens on {address} already"));
    }
    drop(first);
}

/// Dials a node that speaks nothing of ours: the connection comes about, and ends before a word was said.
#[tokio::test]
async fn dial_whose_connection_ends_before_a_word_was_said_is_told_as_hung_up() {
    let key = identity::Keypair::ed25519_from_bytes([2; 32]).expect("32 bytes are a seed");
    let settings = Settings::with_tokio_executor();
    let carried = transport(&key, Arc::default()).expect("it can be encrypted");
    let mut mute = Swarm::new(carried, dummy::Behaviour, key.public().to_peer_id(), settings);
    let local = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    mute.listen_on(local).expect("listens");
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = mute.select_next_some().await {
            break address.to_vec();
        }
    };
    let peer = PeerId::from_bytes(&mute.local_peer_id().to_bytes()).expect("an Ed25519 key");
    tokio::spawn(async move {
        loop {
            mute.select_next_some().await;
        }
    });
    let (commands, mut events) = running();
    // The second one comes while the first is under way, and shares its end.
    for _ in 0..2 {
        let addresses = vec![address.clone()];
        assert!(commands.send(Command::Dial { peer, addresses }).is_ok(), "it runs");
    }
    assert!(matches!(next(&mut events).await, Event::Down { .. }));
    assert!(matches!(next(&mut events).await, Event::HungUp { peer: failed, .. } if failed == peer));
    // And the next one is tried, and ends like that, too.
    let addresses = vec![address];
    assert!(commands.send(Command::Dial { peer, addresses }).is_ok(), "it runs");
    assert!(matches!(next(&mut events).await, Event::Down { .. }));
    assert!(matches!(next(&mut events).await, Event::HungUp { .. }));
}

/// A listener that is no node, and its address.
fn door() -> (TcpListener, Multiaddr) {
    let door = TcpListener::bind(("127.0.0.1", 0)).expect("binds");
    let port = door.local_addr().expect("bound").port();
    (door, format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address"))
}

/// A node that runs.
fn running() -> (UnboundedSender<Command>, UnboundedReceiver<Event>) {
    let idle = listen(&Zeroizing::new([1; 32]), &NetConfig::default(), Arc::default()).expect("starts");
    let ((commands, to_do), (tell, events)) =
        (tokio::sync::mpsc::unbounded_channel(), tokio::sync::mpsc::unbounded_channel());
    tokio::spawn(idle.run(to_do, tell));
    (commands, events)
}

/// A node whose door is full takes a connection and not its handshake; where nobody listens there is no connection.
#[tokio::test]
async fn dial_that_ends_in_its_handshake_is_told_as_hung_up_and_one_to_nobody_as_failed() {
    let (door, at) = door();
    let (commands, mut events) = running();
    let peer = peer_of_seed(&Zeroizing::new([2; 32]));
    let dial = || assert!(commands.send(Command::Dial { peer, addresses: vec![at.to_vec()] }).is_ok());
    dial();
    let (came, _) = tokio::task::spawn_blocking(move || door.accept().map(|(came, _)| (came, door)))
        .await
        .expect("runs")
        .expect("somebody comes");
    drop(came);
    assert!(matches!(next(&mut events).await, Event::HungUp { peer: failed, .. } if failed == peer));
    dial();
    assert!(matches!(next(&mut events).await, Event::DialFailed { peer: failed, .. } if failed == peer));
}

/// Something else that listens there, as a web server does, is no node with a crowd at its door.
#[tokio::test]
async fn dial_that_another_program_answers_is_told_as_failed() {
    let (door, at) = door();
    let (commands, mut events) = running();
    let peer = peer_of_seed(&Zeroizing::new([2; 32]));
    assert!(commands.send(Command::Dial { peer, addresses: vec![at.to_vec()] }).is_ok());
    let answered = tokio::task::spawn_blocking(move || {
        let (mut came, _) = door.accept()?;
        let text = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nno";
        std::io::Write::write_all(&mut came, text)?;
        // It hears what comes until the dialer has enough.
        std::io::copy(&mut came, &mut std::io::sink()).or(Ok::<u64, std::io::Error>(0))
    });
    let failed = next(&mut events).await;
    assert!(
        matches!(&failed, Event::DialFailed { peer: failed, .. } if *failed == peer),
        "{}",
        told(&failed)
    );
    answered.await.expect("runs").expect("somebody comes");
}

fn told(event: &Event) -> &str {
    match event {
        Event::DialFailed { error, .. } | Event::HungUp { error, .. } => error,
        _ => "something else",
    }
}

/// The next event, other than that a connection is being closed.
async fn next(events: &mut UnboundedReceiver<Event>) -> Event {
    loop {
        let event =
            tokio::time::timeout(PATIENCE, events.recv()).await.expect("it is told").expect("it runs");
        if !matches!(event, Event::Ending { .. }) {
            return event;
        }
    }
}
