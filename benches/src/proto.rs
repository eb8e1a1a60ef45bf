//! The parts of MCP that the fake server and the test clients share.

pub(crate) const MODERN: &str = "2026-07-28";
pub(crate) const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

pub(crate) const HEADER_SESSION: &str = "mcp-session-id";
pub(crate) const HEADER_VERSION: &str = "mcp-protocol-version";
pub(crate) const HEADER_METHOD: &str = "mcp-method";
pub(crate) const HEADER_NAME: &str = "mcp-name";

pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
pub(crate) const INVALID_PARAMS: i32 = -32602;
pub(crate) const HEADER_MISMATCH: i32 = -32020;
pub(crate) const UNSUPPORTED_VERSION: i32 = -32022;

/// True where `listed` is `wanted`, bare or behind a gateway's prefix.
///
/// `wanted` is `tool` or `upstream/tool`; gateways rewrite separators, so `_`, `-` and `.` compare equal.
pub(crate) fn tool_matches(listed: &str, wanted: &str) -> bool {
    let plain = |name: &str| name.replace(['-', '.', '/', ':'], "_").to_lowercase();
    let (upstream, tool) = wanted.split_once('/').unwrap_or(("", wanted));
    let (listed, tool) = (plain(listed), plain(tool));
    match listed.strip_suffix(&tool) {
        Some("") => true,
        Some(prefix) => prefix.ends_with('_') && prefix.contains(&plain(upstream)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::tool_matches;

    #[test]
    fn matches_bare_and_prefixed_names() {
        for listed in ["echo", "alpha_echo", "alpha__echo", "alpha-echo", "mcp.alpha.echo"] {
            assert!(tool_matches(listed, "echo"), "{listed}");
            assert!(tool_matches(listed, "alpha/echo"), "{listed}");
        }
        assert!(tool_matches("alpha-stall-stdout", "alpha/stall_stdout"));
        assert!(!tool_matches("beta_echo", "alpha/echo"));
        assert!(!tool_matches("reecho", "echo"));
    }
}
