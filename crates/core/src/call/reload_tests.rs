//! What another configuration leaves as it is.

use super::*;

const SCRIPT: [&str; 1] = ["reply 5000"];

fn other(more: &str) -> Arc<Config> {
    Arc::new(config(&SCRIPT, more))
}

#[tokio::test(start_paused = true)]
async fn another_limit_of_the_daemon_ends_no_instance() {
    let with = |limit: &str| {
        format!("[servers.s.tools.write]\ntimeout = \"0s\"\n[timeouts]\ndaemon = \"{limit}\"\n")
    };
    let gateway = gateway(&SCRIPT, &with("20s")).await;
    let before = gateway.upstream("s").unwrap();
    let mut answer = gateway.call(call("write"));
    settle().await;
    gateway.reload(&other(&with("30s"))).unwrap();
    let after = gateway.upstream("s").unwrap();
    assert!(Arc::ptr_eq(&before, &after), "the upstream is another");
    assert_eq!(gateway.config().timeout_of(after.config(), Some("write")), 30 * SECOND);
    assert!(end(&mut answer).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn tools_stay_listed_unless_what_is_listed_of_them_changes() {
    let with = |key: &str| format!("[servers.s.tools.write]\n{key}\n");
    let gateway = gateway(&SCRIPT, &with("limit = 1")).await;
    gateway.reload(&other(&with("limit = 2"))).unwrap();
    assert!(gateway.catalog().listing("s", "").is_some(), "its tools are gone until it is asked again");
    gateway.reload(&other(&with("effects = \"none\""))).unwrap();
    assert!(gateway.catalog().listing("s", "").is_none(), "it is listed with its old effects");
}
