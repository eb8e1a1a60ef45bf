//! The channel on a paused clock, over a carrier that is nothing but its two queues.

use super::*;
use crate::time::Deadline;
use seawall_proto::era::{Face, Pin, Spoken, Wire, serve};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

fn open() -> (Arc<Instance>, Queues) {
    let opening = Bytes::from_static(br#"{"protocolVersion":"2025-11-25","capabilities":{}}"#);
    let peer = Peer::recall("2025-11-25", Raw::parse(opening).unwrap()).unwrap();
    let plan = Plan {
        pin: Pin::default(),
        spoken: Spoken::default(),
        wire: Wire::own(),
        face: Face::own(),
        say: Arc::new(|_: Broadcast| {}),
        exclusive: false,
        budget: Deadline::after(SECOND),
    };
    Instance::new(peer, None, "test", &plan)
}

fn message(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn begin(instance: &Arc<Instance>) -> Exchange {
    let greeting = message(
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#,
    );
    let (wire, face) = serve::initialize(&greeting).unwrap();
    let call = message(
        r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"t","_meta":{"progressToken":"p"}}}"#,
    );
    let request = serve::in_session(call, &wire, &Arc::new(face)).unwrap();
    Instance::exchange(instance, &request, None).unwrap()
}

/// Lets an exchange send its request; gives what the carrier gets.
async fn send(exchange: &mut Exchange, queues: &mut Queues) -> Message {
    let body = tokio::select! {
        biased;
        heard = exchange.next() => panic!("nothing was said yet: {heard:?}"),
        body = queues.next() => body.unwrap(),
    };
    Message::parse(body).unwrap()
}

/// The method of what the carrier gets next.
async fn next_method(queues: &mut Queues) -> String {
    Message::parse(queues.next().await.unwrap()).unwrap().method().unwrap().to_owned()
}

fn hear(instance: &Instance, text: &str) {
    instance.hear(&Bytes::copy_from_slice(text.as_bytes()));
}

fn answer(instance: &Instance, id: u64) {
    hear(instance, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
}

#[tokio::test(start_paused = true)]
async fn answers_find_their_calls_and_the_rest_is_counted() {
    let (instance, mut queues) = open();
    hear(&instance, "Server running on stdio\u{1b}[0m");
    hear(&instance, "  ");
    answer(&instance, 1);
    let (mut one, mut two) = (begin(&instance), begin(&instance));
    assert_eq!(send(&mut one, &mut queues).await.minted_id(), Some(1));
    assert_eq!(send(&mut two, &mut queues).await.minted_id(), Some(2));
    answer(&instance, 2);
    answer(&instance, 1);
    answer(&instance, 1);
    hear(&instance, r#"{"jsonrpc":"2.0","id":"1","result":{}}"#);
    instance.too_long(99);
    for (exchange, id) in [(&mut one, "1"), (&mut two, "2")] {
        let Ok(Heard::Response(response)) = exchange.next().await else { panic!("{id}") };
        assert_eq!(response.id().unwrap().as_str(), id);
    }
    let odd = Oddities {
        garbled: 0,
        skipped: 1,
        last_skipped: Some(String::from("Server running on stdio\\u{1b}[0m")),
        late: 1,
        unknown: 2,
        dropped: 0,
        oversize: 1,
    };
    assert_eq!(instance.oddities(), odd);
    assert_eq!(instance.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_loses_progress_and_never_the_answer() {
    let (instance, mut queues) = open();
    let mut call = begin(&instance);
    send(&mut call, &mut queues).await;
    for _ in 0..mailbox::MESSAGES + 6 {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
        hear(&instance, text);
    }
    answer(&instance, 1);
    assert_eq!(instance.oddities().dropped, 6);
    for _ in 0..mailbox::MESSAGES {
        assert!(matches!(call.next().await, Ok(Heard::Notification(_, Topic::Progress))));
    }
    assert!(matches!(call.next().await, Ok(Heard::Response(_))));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_answer_ends_its_call_at_once() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#,
    ] {
        let (instance, mut queues) = open();
        let mut call = begin(&instance);
        send(&mut call, &mut queues).await;
        hear(&instance, text);
        let lost = call.next().await.unwrap_err();
        assert!(lost.answered && lost.sent == Sent::Maybe, "{text}: {lost:?}");
        assert_eq!(instance.oddities(), Oddities::default());
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_drains_takes_no_calls_and_ends_after_its_last() {
    let (instance, mut queues) = open();
    let mut call = begin(&instance);
    send(&mut call, &mut queues).await;
    instance.drain("it is old");
    assert!(instance.is_gone());
    let lost = begin(&instance).next().await.unwrap_err();
    assert_eq!((lost.sent, lost.why.as_str()), (Sent::No, "it is old"));
    assert!(queues.ready().is_none(), "what was refused must not reach the server");
    assert!(timeout(SECOND, instance.ending()).await.is_err());
    answer(&instance, 1);
    assert!(matches!(call.next().await, Ok(Heard::Response(_))));
    timeout(SECOND, instance.ending()).await.unwrap();

    let (idle, _queues) = open();
    idle.drain("it is old");
    timeout(SECOND, idle.ending()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_are_lost_with_the_carrier_and_those_not_sent_are_known_to_be() {
    let (instance, mut queues) = open();
    let (mut sent, mut unsent) = (begin(&instance), begin(&instance));
    send(&mut sent, &mut queues).await;
    instance.close("it broke");
    for (exchange, expected) in [(&mut sent, Sent::Maybe), (&mut unsent, Sent::No)] {
        let lost = exchange.next().await.unwrap_err();
        assert_eq!((lost.sent, lost.why.as_str()), (expected, "it broke"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_to_a_call_and_to_a_ping_hangs() {
    let (instance, mut queues) = open();
    instance.tend(&Life::default());
    let mut call = begin(&instance);
    send(&mut call, &mut queues).await;
    let began = Instant::now();
    call.expire("its time was over");
    assert_eq!(next_method(&mut queues).await, "notifications/cancelled");
    assert_eq!(next_method(&mut queues).await, "ping");
    assert!(instance.unfit().await.contains("no sign of life"));
    assert_eq!(began.elapsed(), DOUBT);
    assert!(!instance.is_gone(), "what becomes of it is not decided here");
}

#[tokio::test(start_paused = true)]
async fn anything_that_is_a_message_clears_a_doubt() {
    for text in [
        r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    ] {
        let (instance, mut queues) = open();
        instance.tend(&Life::default());
        let mut call = begin(&instance);
        send(&mut call, &mut queues).await;
        call.expire("its time was over");
        assert_eq!(next_method(&mut queues).await, "notifications/cancelled");
        assert_eq!(next_method(&mut queues).await, "ping");
        hear(&instance, text);
        assert!(timeout(DOUBT * 3, instance.unfit()).await.is_err(), "{text}");
        assert_eq!(instance.oddities(), Oddities::default(), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_talks_and_answers_nothing_call_after_call_is_deaf() {
    for deaf in [true, false] {
        let (instance, mut queues) = open();
        instance.tend(&Life::default());
        let talk = async {
            loop {
                sleep(SECOND).await;
                hear(&instance, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#);
            }
        };
        let calls = async {
            for _ in 0..6 {
                let mut call = begin(&instance);
                send(&mut call, &mut queues).await;
                sleep(SECOND * 5).await;
                call.expire("its time was over");
                drop(call);
                if !deaf {
                    while let Some(body) = queues.ready() {
                        let said = String::from_utf8_lossy(&body).into_owned();
                        if let Some((_, id)) = said.split_once(r#""id":"#).filter(|_| said.contains("ping")) {
                            let id = id.split(',').next().unwrap_or_default();
                            hear(&instance, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
                        }
                    }
                }
            }
            sleep(SECOND * 20).await;
        };
        tokio::select! {
            why = instance.unfit() => assert!(deaf && why.contains("it talks"), "{why}"),
            () = talk => {}
            () = calls => assert!(!deaf, "it was not found out"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_busy_with_others_is_not_in_doubt() {
    let (instance, mut queues) = open();
    instance.tend(&Life::default());
    let (mut slow, mut quick) = (begin(&instance), begin(&instance));
    send(&mut slow, &mut queues).await;
    send(&mut quick, &mut queues).await;
    answer(&instance, 2);
    slow.expire("its time was over");
    assert_eq!(next_method(&mut queues).await, "notifications/cancelled");
    assert!(timeout(DOUBT * 3, queues.next()).await.is_err(), "nobody was pinged");
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_calls_under_way_finish_first() {
    let (instance, mut queues) = open();
    let life = Life::default();
    instance.tend(&life);
    let mut call = begin(&instance);
    send(&mut call, &mut queues).await;
    life.drain();
    assert!(timeout(SECOND, instance.gone()).await.is_err());
    answer(&instance, 1);
    assert!(matches!(call.next().await, Ok(Heard::Response(_))));
    timeout(SECOND, instance.gone()).await.unwrap();
}
