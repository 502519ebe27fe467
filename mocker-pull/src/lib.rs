//! The parts of mocker-pull.

pub mod calls;
pub mod clock;
pub mod compression;
pub mod fixup;
pub mod layer;
pub mod lenders;
pub mod manifest;
pub mod member;
pub mod notes;
pub mod platform;
pub mod progress;
pub mod publish;
pub mod pull;
pub mod push;
pub mod registry;
pub mod sparse;
pub mod tree;
pub mod unpack;
pub mod whiteout;
