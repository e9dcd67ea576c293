//! How a server is part of a cluster, as its settings say.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::node::{Address, NodeId};

/// A password. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Where etcd is and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Its members, `http://host:port` or `https://host:port`: at least one (`--etcd`).
    pub endpoints: Vec<String>,
    /// `--etcd-user` and `--etcd-password`.
    pub user: Option<(String, Password)>,
    /// A file with the certificates of who signs etcd's, in PEM (`--etcd-ca`); the system's if it
    /// is left out.
    pub ca: Option<PathBuf>,
    /// Files with our certificate and its key, in PEM (`--etcd-cert`, `--etcd-key`).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What all keys begin with: no slash at its end (`--etcd-prefix`).
    pub prefix: String,
    /// Time after which what a node that is gone has written goes, too (`--etcd-ttl`).
    pub ttl: Duration,
    /// Our name (`--node-id`).
    pub node: NodeId,
    /// Where players reach us (`--advertise`).
    pub kcp: Address,
    /// Where others reach our HTTP side, if they do (`--advertise-web`).
    pub http: Option<Address>,
    /// Where others reach our gRPC side, if there is one (`--advertise-grpc`).
    pub grpc: Option<Address>,
}
