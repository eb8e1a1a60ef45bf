use super::*;
use std::path::PathBuf;

fn open(conversations: &Conversations, sessions: usize) -> Option<Arc<Conversation>> {
    let config = crate::config::Config::default_for(PathBuf::from("/nowhere"));
    let limits = Limits { sessions, ..config.limits };
    conversations.open(&"a".into(), Endpoint::All, Wire::own(), Face::own(), &limits)
}

#[tokio::test(start_paused = true)]
async fn it_expires_when_idle_and_not_while_something_of_it_is_open() {
    let idle = Duration::from_secs(60);
    let conversations = Conversations::default();
    let conversation = open(&conversations, 9).unwrap();
    let held = conversation.open();
    tokio::time::advance(idle * 2).await;
    assert!(conversations.expire(idle).is_empty());
    drop(held);
    tokio::time::advance(idle / 2).await;
    conversation.touch();
    tokio::time::advance(idle / 2).await;
    assert!(conversations.expire(idle).is_empty(), "every use puts it off");
    tokio::time::advance(idle / 2).await;
    assert_eq!(conversations.expire(idle).len(), 1);
    assert!(conversations.is_empty());
    conversation.ended().await;
}

#[tokio::test]
async fn there_are_as_many_as_may_be_and_each_is_its_callers_own() {
    let conversations = Conversations::default();
    let first = open(&conversations, 1).unwrap();
    assert!(open(&conversations, 1).is_none());
    assert!(conversations.get(&first.id, "a").is_some());
    assert!(conversations.get(&first.id, "b").is_none());
    assert!(conversations.end(&first.id).is_some());
    assert!(open(&conversations, 1).is_some());
}

#[tokio::test]
async fn its_own_messages_wait_for_one_listener_and_the_oldest_give_way() {
    let conversations = Conversations::default();
    let conversation = open(&conversations, 1).unwrap();
    for number in 0..=OUTBOX {
        conversation.say(Bytes::from(number.to_string()));
    }
    let first = conversation.listen();
    assert_eq!(first.next().await.unwrap(), "1");
    let second = conversation.listen();
    assert_eq!(first.next().await, None, "the first gave way");
    drop(first);
    assert!(conversation.is_followed());
    assert_eq!(second.next().await.unwrap(), "2");
    drop(second);
    assert!(!conversation.is_followed());
}

#[tokio::test]
async fn a_stream_is_taken_up_where_it_broke_off_by_one_reader_at_a_time() {
    let conversations = Conversations::default();
    let conversation = open(&conversations, 1).unwrap();
    let stream = conversation.stream();
    stream.push(Bytes::from_static(b"a"));
    let first = stream.attach();
    assert_eq!(stream.next(first, 0).await, Next::Event(1, Bytes::from_static(b"a")));
    let (found, seen) = conversation.stream_of(&stream.event_id(1)).unwrap();
    let second = found.attach();
    assert_eq!(stream.next(first, 1).await, Next::End, "the first reader gave way");
    stream.push(Bytes::from_static(b"b"));
    stream.end();
    assert_eq!(found.next(second, seen).await, Next::Event(2, Bytes::from_static(b"b")));
    assert_eq!(found.next(second, 2).await, Next::End);
    conversation.drop_stream(&stream);
    assert!(conversation.stream_of("1-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_nobody_reads_is_abandoned_after_the_window() {
    let stream = Stream::new(1);
    let reader = stream.attach();
    let began = Instant::now();
    tokio::join!(stream.abandoned(RESUME_WINDOW), async {
        tokio::time::sleep(RESUME_WINDOW * 2).await;
        stream.detach(reader);
    });
    assert_eq!(began.elapsed(), RESUME_WINDOW * 3);
}
