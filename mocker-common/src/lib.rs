//! What mocker's tools share. Nothing here that one tool alone needs.
//!
//! - the pipe: [`document`] (what flows), [`stage`] (document in, job, document out), [`hooks`] and [`undo`]
//!   (how everything made is unmade), [`state`] (who owns it meanwhile)
//! - the lesson: [`step`] (a call, its arguments, its reason), [`explain`] (the narrative), [`error`]
//! - images: [`reference`], [`digest`], [`store`], [`publish`] (how things appear in it), [`unpack`] (a layer's tar
//!   becomes a directory), [`image`] (from store to document), [`overlay`] (its layers as one tree), [`passwd`]
//! - without root: [`rootless`]
//! - what is allowed by default: [`defaults`], [`seccomp_profile`]
//! - limits: [`cgroup`]
//! - small things: [`lock`], [`units`]

pub mod cgroup;
pub mod clock;
pub mod defaults;
pub mod digest;
pub mod document;
pub mod error;
pub mod explain;
pub mod hooks;
pub mod image;
pub mod in_use;
pub mod lock;
pub mod overlay;
pub mod passwd;
pub mod publish;
pub mod reference;
pub mod rootless;
pub mod seccomp_profile;
pub mod stage;
pub mod state;
pub mod step;
pub mod store;
pub mod undo;
pub mod units;
pub mod unpack;
