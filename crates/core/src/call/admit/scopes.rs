//! Scopes: what a call needs a place in, and how many places there are.

use super::Claim;
use crate::config::Limits;

/// A set of scopes: of what a call needs a place in. The share of one upstream in a scope of the caller's half is a
/// scope of its own, and it is the upstream's: it may be full where the scope as a whole is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scopes(u16);

impl Scopes {
    pub(super) const TOOL: Self = Self(1);
    pub(super) const UPSTREAM: Self = Self(1 << 1);
    pub(super) const PROVIDER: Self = Self(1 << 2);
    pub(super) const TOTAL_SHARE: Self = Self(1 << 3);
    pub(super) const CALLER_SHARE: Self = Self(1 << 4);
    pub(super) const CONVERSATION_SHARE: Self = Self(1 << 5);
    pub(super) const CONVERSATION: Self = Self(1 << 6);
    pub(super) const CALLER: Self = Self(1 << 7);
    pub(super) const TOTAL: Self = Self(1 << 8);
    pub(super) const ALL: Self = Self((1 << 9) - 1);
    /// Those that are full because of where a call goes.
    pub(super) const BY_UPSTREAM: Self = Self((1 << 6) - 1);
    /// Those that only calls of the same caller are counted in.
    pub(super) const BY_CALLER: Self =
        Self(Self::CALLER_SHARE.0 | Self::CONVERSATION_SHARE.0 | Self::CONVERSATION.0 | Self::CALLER.0);

    /// The widest of them, by name.
    pub(super) fn name(self) -> &'static str {
        let names = [
            (Self::TOTAL.or(Self::TOTAL_SHARE), "total"),
            (Self::CALLER.or(Self::CALLER_SHARE), "caller"),
            (Self::CONVERSATION.or(Self::CONVERSATION_SHARE), "conversation"),
            (Self::PROVIDER, "provider"),
            (Self::UPSTREAM, "upstream"),
        ];
        names.into_iter().find(|(scopes, _)| self.meet(*scopes)).map_or("tool", |(_, name)| name)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn only_if(self, counts: bool) -> Self {
        if counts { self } else { Self(0) }
    }

    /// What two calls are both counted in.
    pub(super) fn shared(one: &Claim, other: &Claim) -> Self {
        let caller = one.caller == other.caller;
        let conversation = caller && one.conversation == other.conversation;
        let upstream = one.upstream == other.upstream;
        let tool =
            upstream && one.tool_limit.is_some() && other.tool_limit.is_some() && one.tool == other.tool;
        let provider = match (&one.provider, &other.provider) {
            (Some((one, _)), Some((other, _))) => one == other,
            _ => false,
        };
        Self::TOTAL
            .or(Self::TOOL.only_if(tool))
            .or(Self::UPSTREAM.or(Self::TOTAL_SHARE).only_if(upstream))
            .or(Self::PROVIDER.only_if(provider))
            .or(Self::CALLER_SHARE.only_if(caller && upstream))
            .or(Self::CONVERSATION_SHARE.only_if(conversation && upstream))
            .or(Self::CONVERSATION.only_if(conversation))
            .or(Self::CALLER.only_if(caller))
    }
}

/// The part of a limit that one upstream may hold; at least one place.
pub(super) fn part(limit: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a positive fraction of a small count"
    )]
    let part = (limit as f64 * share).ceil() as usize;
    part.max(1)
}

/// How many calls a conversation of this claim may have, when that is limited.
pub(super) fn conversation_limit(limits: &Limits, claim: &Claim) -> Option<usize> {
    (claim.conversation.is_some() || limits.count_unnamed).then_some(limits.conversation)
}

/// The fewest places that any of these scopes has for a call.
pub(super) fn places(limits: &Limits, claim: &Claim, scopes: Scopes) -> usize {
    let conversation = conversation_limit(limits, claim);
    [
        (Scopes::TOOL, claim.tool_limit),
        (Scopes::UPSTREAM, claim.upstream_limit),
        (Scopes::PROVIDER, claim.provider.as_ref().map(|(_, limit)| *limit)),
        (Scopes::TOTAL_SHARE, Some(part(limits.total, limits.share))),
        (Scopes::CALLER_SHARE, Some(part(limits.caller, limits.share))),
        (Scopes::CONVERSATION_SHARE, conversation.map(|limit| part(limit, limits.conversation_share))),
        (Scopes::CONVERSATION, conversation),
        (Scopes::CALLER, Some(limits.caller)),
        (Scopes::TOTAL, Some(limits.total)),
    ]
    .into_iter()
    .filter(|(scope, _)| scopes.meet(*scope))
    .filter_map(|(_, limit)| limit)
    .min()
    .unwrap_or(limits.total)
}
