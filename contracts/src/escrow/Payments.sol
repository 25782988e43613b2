// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Agreements} from "./Agreements.sol";
import {TermsLayout} from "./TermsLayout.sol";

/// @title Payments
/// @notice What the provider draws while the agreement goes on.
abstract contract Payments is Agreements {
    using TermsLayout for Terms;

    function claim(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external
    {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        (uint256 step, bool changed) = _takeVoucher(terms, id, a, voucher, signature);
        if (!changed) revert Escrow_NothingToClaim(id, a.paid);
        _store(id, a);
        _pay(terms, step);
    }

    function claimOffline(
        Terms calldata terms,
        Heartbeat calldata heartbeat,
        bytes calldata signature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _checkHeartbeat(terms, id, heartbeat, signature);
        // After the requester's close it was not offline: only what was metered before counts.
        uint256 until = a.status == Status.ClosingByRequester
            ? a.deadline - terms.claimWindow()
            : block.timestamp;
        if (heartbeat.at > until) revert Escrow_TooLate(until);

        uint256 vouched = a.paid - a.offline;
        uint256 elapsed = Math.saturatingSub(heartbeat.at, a.openedAt);
        uint256 metered = accrued(terms, Math.min(heartbeat.meteredSeconds, elapsed));
        uint256 most = vouched + accrued(terms, terms.offlineAllowance());
        uint256 paid = Math.min(Math.min(metered, most), _payable(terms, a));
        if (paid <= a.paid) revert Escrow_NothingToClaim(id, a.paid);
        uint256 step = _raise(id, a, paid, paid - vouched);
        _store(id, a);
        _pay(terms, step);
    }

    function _checkHeartbeat(
        Terms calldata terms,
        bytes32 id,
        Heartbeat calldata heartbeat,
        bytes calldata signature
    ) internal view returns (bytes32 digest) {
        _names(heartbeat.agreement, id);
        digest = heartbeatDigest(heartbeat);
        _signedByHot(terms.providerSigner(), terms.provider(), digest, signature);
    }
}
