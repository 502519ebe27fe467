//! The kernel calls of mocker-net, a file a family. The only place with `unsafe`.

mod chains;
mod conntrack;
mod files;
mod netlink;
mod netns;
mod nfnetlink;
mod nft;
mod port;

pub use chains::{Chain, ListChains};
pub use conntrack::ForgetFlows;
pub use files::{RemoveFile, WriteSetting};
pub use netlink::{
    AddAddress, AddBridge, AddDefaultRoute, AddVeth, DeleteLink, DressLink, Netlink, OpenNetlink, Route, find_link,
    links, routes,
};
pub use netns::{
    BindMount, EnterNamespace, MakeFile, MakeMarkedDirectory, MakeShared, Mark, RemoveDirectory, Unmount,
    UnshareNetwork, marks,
};
pub use nft::Nft;
pub use port::BindPort;
