//! system(4): what tells the kernel of a root on a volume is the standby's own, or nowhere.
//!
//! Why: production's `rootdev:` on the standby is a panic before the first message, and its other parameters are what
//! production's applications were tuned with. What can go wrong: a block that is opened and not closed; nothing is made
//! then.

use super::super::solaris::{in_force, without_root};
use super::{own_reason, reason};

/// What is in force on the standby of it goes to the end; of production's everything else.
pub(super) fn system(production: &[u8], standby: &[u8]) -> Result<Vec<u8>, String> {
    let own = in_force(standby).map_err(own_reason)?;
    let mut made = without_root(production).map_err(reason)?;
    if !own.is_empty() && made.0.last().is_some_and(|line| line.content.ends_with(b"\\")) {
        return Err("its last line goes on in another one".to_owned());
    }
    own.iter().for_each(|line| made.push(line));
    Ok(made.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(production: &str, standby: &str) -> Result<String, String> {
        let once = system(production.as_bytes(), standby.as_bytes())?;
        assert_eq!(system(production.as_bytes(), &once).unwrap(), once, "a second time changes more");
        Ok(String::from_utf8(once).unwrap())
    }

    const BLOCK: &str = "* Begin MDD root info (do not edit)\nrootdev:/pseudo/md@0:0,10,blk\n* End MDD root info (do not edit)\n";

    #[test]
    fn a_root_on_a_volume_is_the_standbys_or_nowhere() {
        let production = format!(
            "set maxusers=40\n{BLOCK}set vxio:vol_rootdev_is_volume=1\nset shmsys:shminfo_shmmax=4294967295"
        );
        let plain =
            "set maxusers=40\n* set vxio:vol_rootdev_is_volume=1\nset shmsys:shminfo_shmmax=4294967295";
        assert_eq!(made(&production, "set maxusers=20\n* rootdev:/pseudo/vxio@0:0\n").unwrap(), plain);
        let own = BLOCK.replace("10", "20");
        let mirrored = format!("set maxusers=20\n{own}rootdev:/x\n");
        assert_eq!(made(&production, &mirrored).unwrap(), format!("{plain}\n{own}rootdev:/x\n"));
    }

    #[test]
    fn a_block_without_an_end_is_an_error() {
        let open = "* Begin MDD root info (do not edit)\nrootdev:/x\n";
        assert!(made(open, "").is_err());
        assert!(made("set a=1 \\\n", "rootdev:/x\n").unwrap_err().contains("goes on"));
        assert!(made("set a=1\n", open).unwrap_err().starts_with("the standby's own: "));
    }
}
