//! The program as its users run it: against real trees, real filesystems and a real sshd.
//!
//! These tests need root and, besides a Rust toolchain, the packages `acl attr btrfs-progs dash debootstrap e2fsprogs faketime
//! iproute2 iputils-ping libcap2-bin lvm2 openssh-client openssh-server postgresql
//! qemu-system-common rsync strace tar util-linux xfsprogs zstd`.
//! `CLONETOOL_SKIP_LOG=FILE` collects the names of the tests that could not run; `CLONETOOL_KEEP=1` keeps the work
//! directories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod common;

mod accounts;
mod attest;
mod bare;
mod busy;
mod cli;
mod docs;
mod enroll;
mod export;
mod faults;
mod fidelity;
mod full;
mod gates;
mod harness;
mod hold;
mod image;
mod latest;
mod month;
mod mounts;
mod peers;
mod power;
mod prepare_root;
mod profiles;
mod props;
mod radius;
mod reach;
mod records;
mod regressions;
mod rooms;
mod schedule;
mod snapshots;
mod status;
mod unattended;
mod whole;
mod work;
