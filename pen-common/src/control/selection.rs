//! Why a service in proxy mode gave a client to a server, or did not: the words of its log lines
//! and counters.

use crate::config::words::words;

words! {
    /// Why a client is refused, or why a server is passed over for it.
    Refused {
        /// As many connections as the service may have (`conn_max`).
        TooManyConnections = "too-many-connections",
        /// The service's access list denies the client, and no abuse server takes it.
        AclDenied = "acl-denied",
        /// The server's access list denies the client.
        ServerAcl = "server-acl",
        /// The server failed a short while ago, or was excluded by a command.
        Blacklisted = "blacklisted",
        /// The server has as many connections as it may have.
        ServerFull = "server-full",
        /// The server has weight 0 where weights count: it keeps its clients and gets no new ones.
        NoWeight = "no-weight",
        /// The connection to the server could not be made.
        ConnectFailed = "connect-failed",
        /// The client may not be given another server than the one chosen first.
        Stubborn = "stubborn",
        /// No server is left, and there is no emergency server that was not tried yet.
        NoServer = "no-server",
        /// The client's connection has ended already.
        Ended = "ended",
        /// The client has as many connections as it may have (`client_conn_max`).
        ClientConnections = "client-connections",
        /// The client comes faster than it may (`client_conn_rate`).
        ClientRate = "client-rate",
        /// This host has no descriptor, port or address for the connection to a server.
        HostLacks = "host-lacks",
        /// A client that must begin with a header of the PROXY protocol sent none, a wrong one, or
        /// not in time.
        BadProxyHeader = "bad-proxy-header",
        /// A UDP datagram for which a socket, or this host, had no room.
        Dropped = "datagram-dropped",
        /// A request that is not HTTP/1, or that two readers could take for different ones.
        BadRequest = "bad-request",
        /// A request over TLS names another host than the handshake did.
        Misdirected = "misdirected",
        /// The head of a request did not come in time (`head_timeout`).
        SlowHead = "slow-head",
        /// A client that sends a request stopped in its body (`idle_timeout`).
        SlowBody = "slow-body",
        /// The server ended the connection before it answered, or its answer is not HTTP/1.
        BadAnswer = "bad-answer",
        /// The server did not connect or answer in time.
        TooLate = "too-late",
        /// The client speaks no TLS, or none that we do, or left before the handshake was over.
        BadHandshake = "bad-handshake",
        /// The handshake was not over in time (`tls_timeout`).
        SlowHandshake = "slow-handshake",
        /// The client of a service that leads by name asked for none that a route is for, or speaks
        /// no TLS, and there are no other servers for it.
        UnknownName = "unknown-name",
    }
}

impl Refused {
    /// What it means, in a few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooManyConnections => "as many connections as the service may have",
            Self::AclDenied => "the access list denies the client, and there is no abuse server",
            Self::ServerAcl => "the server's access list denies the client",
            Self::Blacklisted => "the server failed a short while ago, or was taken out",
            Self::ServerFull => "every server has as many connections as it may have",
            Self::NoWeight => "the server has weight 0, where weights count",
            Self::ConnectFailed => "no connection to the server could be made",
            Self::Stubborn => "the client may go to no other server than the first",
            Self::NoServer => "no server is left, and no emergency server",
            Self::Ended => "the client had left already",
            Self::ClientConnections => "the client has as many connections as it may have",
            Self::ClientRate => "the client comes faster than it may",
            Self::HostLacks => "this host has no descriptor, port or address for the connection",
            Self::BadProxyHeader => "no right header of the PROXY protocol came in time",
            Self::Dropped => "a datagram for which a socket or this host had no room",
            Self::BadRequest => "the request is not HTTP/1, or not a clear one",
            Self::Misdirected => "the request is for another host than the connection",
            Self::SlowBody => "the body of a request did not come in time",
            Self::SlowHead => "the head of a request did not come in time",
            Self::BadAnswer => {
                "the server broke off before it answered, or did not answer in HTTP/1"
            }
            Self::TooLate => "the server did not connect or answer in time",
            Self::BadHandshake => "the client speaks no TLS that we do, or left in the handshake",
            Self::SlowHandshake => "the handshake was not over in time",
            Self::UnknownName => "the client asked for no name (SNI) that leads to a service",
        }
    }
}

words! {
    /// What chose a client's server.
    ChosenBy {
        /// The server was the client's before.
        Tracking = "tracking",
        /// It has the lowest `prio`.
        Prio = "prio",
        /// It has the fewest connections for its weight.
        Weight = "weight",
        /// The client's address chose it.
        Hash = "hash",
        /// It has the fewest connections.
        Least = "least",
        /// It was its turn.
        RoundRobin = "roundrobin",
        /// No other server was left.
        Emergency = "emergency",
        /// The service's access list denies the client.
        Abuse = "abuse",
    }
}

words! {
    /// How a connection, a flow or a request ended.
    Ended {
        /// Both sides had said all; of a request, that its answer was whole.
        Whole = "whole",
        /// The client's connection broke, or it left before it had all.
        Client = "client",
        /// The server's connection broke, or its answer broke off.
        Server = "server",
        /// The client ended its stream, which is all that was waited for (`tcp_fastclose`).
        ClientClosed = "client-closed",
        /// The server ended its stream, which is all that was waited for (`tcp_fastclose`).
        ServerClosed = "server-closed",
        /// Nobody said anything for the idle time.
        Idle = "idle",
        /// A flow of UDP made room for another one.
        MadeRoom = "made-room",
        /// Nobody served it.
        Refused = "refused",
        /// A command ended it (`close`).
        Closed = "closed",
        /// Pen was stopped.
        Stopped = "stopped",
    }
}
