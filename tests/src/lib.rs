//! What the end-to-end tests share: the lab, a machine of its own for every test.
//!
//! ```no_run
//! let lab = tests::Lab::new("exit");
//! let before = lab.snapshot();
//! let out = lab.sh("mocker-exec --rootfs / -- sh -c 'exit 7'").fails(7);
//! assert_eq!(out.stdout, "");
//! lab.assert_same(&before);
//! ```
//!
//! A lab is a host in itself: namespaces of its own for network, mounts, processes, groups and names, a store and a state
//! directory of its own, the tools on its PATH. So each test uses the tools exactly as a user does, with their default
//! names and addresses, beside any number of other tests; and "nothing is left" is an equality, not a search.
//!
//! The tests run the binaries that `cargo build --workspace` made, or those in `$MOCKER_BIN_DIR`.

pub mod clients;
mod command;
mod host;
mod hub;
mod lab;
mod layouts;
mod programs;
mod registry;
mod runtime;
pub mod scripted;
mod snapshot;
mod terminal;
mod tree;

pub use command::{Output, Run, Running};
pub use hub::Hub;
pub use lab::Lab;
pub use layouts::{Layouts, demo_images, tags};
pub use programs::{binaries, project, require};
pub use registry::Registry;
pub use runtime::Runtime;
pub use snapshot::Snapshot;
pub use terminal::Terminal;
pub use tree::{Difference, Tree};
