//! Commands of Pen's that are refused, or do nothing, and why.

/// Commands of Pen's for what isn't there yet; `no` before them changes nothing.
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("abort_on_error", "Pen has no such state to abort from"),
    ("ascii", "there are no dumps"),
    ("dummy", "Pen answers no requests itself"),
    ("idlers", "connections are made when a client is there"),
    ("peek", "it was never finished in Pen"),
    (
        "socket",
        "descriptors have no number for others; `connections` shows all connections",
    ),
];

/// Commands that are accepted and do nothing.
pub(super) const NO_EFFECT: &[(&str, &str)] = &[
    ("block", "is obsolete"),
    ("delayed_forward", "is obsolete"),
    ("dsr_ip", "never had an effect"),
    (
        "epoll",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "kqueue",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "poll",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "select",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "ssl_client_renegotiation_interval",
        "limits nothing: no client can renegotiate at all",
    ),
    ("tcp_nodelay", "changes nothing: TCP_NODELAY is always set"),
];
