//! `seawall token`: a new token and the line that lets it in.

use super::{Exit, Failure};
use clap::Args;
use sha2::{Digest, Sha256};

/// Make a token for a caller.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The caller's name.
    name: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { name, json } = arguments;
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '@' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        let text = format!("{name:?} is no caller's name: 1 to 64 of A-Z a-z 0-9 . _ @ - are allowed");
        return Err(Failure::new(Exit::BadConfiguration, text));
    }
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(Exit::Failed, format!("the kernel gave no random bytes: {error}")))?;
    let token = format!("seawall_{}", hex(&random));
    let digest = format!("sha256:{}", hex(&Sha256::digest(&token)));
    if *json {
        say!("{}", serde_json::json!({"name": name, "token": token, "token_sha256": digest}));
        return Ok(Exit::Done);
    }
    let key = if name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')) {
        name.clone()
    } else {
        format!("{name:?}")
    };
    say!("The token, shown this once; the client sends it as `Authorization: Bearer …`:\n\n    {token}\n");
    say!("Put this into seawall.toml:\n\n    [callers.{key}]\n    token = \"{digest}\"");
    Ok(Exit::Done)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
