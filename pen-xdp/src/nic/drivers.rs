//! What is known of drivers beyond what they tell.

/// Whether attaching or detaching an XDP program in native mode restarts the link or its queues,
/// so that frames are lost for a moment (or, where the link is trained anew, for seconds). `None`
/// if it isn't known.
///
/// By what the drivers' `ndo_bpf` does in the kernel's tree on the way from no program to one: those
/// that say yes close and open the device or rebuild its rings (igc since 6.14 only stops them);
/// those that say no pause their polling at most. Generic mode never restarts anything by itself.
pub fn resets_link(driver: &str) -> Option<bool> {
    match driver {
        "ixgbe" | "ixgbevf" | "i40e" | "ice" | "igb" | "igc" | "mlx4_en" | "mlx5_core"
        | "bnxt_en" | "ena" | "gve" | "stmmac" | "nfp" => Some(true),
        "veth" | "virtio_net" | "tun" => Some(false),
        _ => None,
    }
}

/// Whether a device of this driver interrupts for what it receives, so that a worker who polls it
/// spares the machine something. A veth or tap device does not: whoever sends does the receiver's
/// work, on his own core, and polling would only move that work to the worker's.
pub fn interrupts(driver: &str) -> bool {
    !matches!(driver, "veth" | "tun")
}

/// Whether new queues of a running device come without the program that the others have: what they
/// receive passes by, until the program is attached again. `veth_set_channels` (drivers/net/veth.c, seen
/// on 6.18) makes them so.
pub fn forgets_program(driver: &str) -> bool {
    driver == "veth"
}

#[cfg(test)]
mod tests {
    use super::{interrupts, resets_link};

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(resets_link("ice"), Some(true));
        assert_eq!(resets_link("veth"), Some(false));
        assert_eq!(resets_link("some_new_nic"), None);
        assert_eq!(resets_link(""), None);
    }

    #[test]
    fn a_device_in_software_does_not_interrupt() {
        assert!(!interrupts("veth") && !interrupts("tun"));
        assert!(interrupts("ice") && interrupts("some_new_nic"));
    }
}
