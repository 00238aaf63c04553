//! listxattrat(2): the names of a file's extended attributes, by name in a held directory.
//!
//! Why the exception from `forbid(unsafe_code)`: the call is asked once for every file of a host, and the safe way,
//! llistxattr on `/proc/self/fd/N/NAME`, spends most of its time in procfs: with it the scan of 200,000 unchanged files
//! takes about half as long again. No crate of this project wraps the call yet; when rustix does, this file goes.
//! What can go wrong: a kernel before 6.13, which says `ENOSYS`; the caller then takes the other way.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

/// The call's number: one for all architectures since Linux 5.1 gave new calls common numbers, but for those whose
/// tables start elsewhere; there the caller takes the other way.
#[cfg(not(any(target_arch = "mips", target_arch = "mips64")))]
const LISTXATTRAT: libc::c_long = 465;
#[cfg(any(target_arch = "mips", target_arch = "mips64"))]
const LISTXATTRAT: libc::c_long = -1;

/// Writes the attribute names of `name` in `directory`, each ended by a NUL, into `list`; says how many bytes. A link is
/// not followed.
///
/// # Errors
/// `ENOSYS` before Linux 6.13, `ERANGE` when `list` is too short, and whatever else listxattr(2) says.
pub(super) fn listxattrat(directory: BorrowedFd<'_>, name: &CStr, list: &mut [u8]) -> Result<usize> {
    // SAFETY: `directory` is open while it is borrowed and `name` is NUL-terminated, both for the whole call. The kernel
    // writes at most `list.len()` bytes to `list`, which is exclusively borrowed and initialised, so any bytes are
    // valid. No pointer is kept. An unknown number is answered by ENOSYS and touches nothing.
    let result = unsafe {
        libc::syscall(
            LISTXATTRAT,
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            list.as_mut_ptr(),
            list.len(),
        )
    };
    usize::try_from(result).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn says_the_same_as_llistxattr() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, "").unwrap();
        rustix::fs::setxattr(&path, c"user.one", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let directory = std::fs::File::open(temp.path()).unwrap();
        let mut mine = [0; 256];
        match listxattrat(directory.as_fd(), c"file", &mut mine) {
            // An older kernel: the other way is the only one.
            Err(Errno::NOSYS) => {}
            listed => {
                let mut theirs = [0; 256];
                let length = rustix::fs::llistxattr(&path, &mut theirs).unwrap();
                assert_eq!(mine[..listed.unwrap()], theirs[..length]);
                assert_eq!(listxattrat(directory.as_fd(), c"file", &mut [0; 2]), Err(Errno::RANGE));
                assert_eq!(listxattrat(directory.as_fd(), c"none", &mut [0; 2]), Err(Errno::NOENT));
            }
        }
    }
}
