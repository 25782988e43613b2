// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Payments} from "./Payments.sol";
import {TermsLayout} from "./TermsLayout.sol";

/// @title Liveness
/// @notice Silence made provable: a challenge that only a live provider can answer, and the slash
/// if it does not. Two heartbeats with one number slash at once.
abstract contract Liveness is Payments {
    using TermsLayout for Terms;

    function challenge(
        Terms calldata terms,
        Voucher calldata voucher,
        bytes calldata signature,
        uint48 nonce
    ) external {
        _onlyRequester(terms);
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        uint256 window = terms.window();
        _notBefore(_contestableFrom(id, a, window));
        _notAfter(_end(terms, a) - 1);
        if (nonce == 0 || nonce == a.nonce) revert Escrow_BadNonce(nonce);

        (uint256 step,) = _takeVoucher(terms, id, a, voucher, signature);
        // No challenge is possible in the first startGrace seconds, so this does not underflow.
        uint256 owed = accrued(terms, block.timestamp - a.openedAt - terms.startGrace());
        if (a.paid < owed) revert Escrow_NotPaidUp(a.paid, owed);

        _pay(terms, step);
        _lockBond(terms, id, a);
        a.status = Status.Challenged;
        a.deadline = uint40(block.timestamp + window);
        a.nonce = nonce;
        _store(id, a);
        emit Challenged(id, nonce, a.deadline);
    }

    function answer(Terms calldata terms, Heartbeat calldata heartbeat, bytes calldata signature)
        external
    {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Challenged);
        _notAfter(a.deadline);
        if (heartbeat.challenge != a.nonce) revert Escrow_BadNonce(heartbeat.challenge);
        _checkHeartbeat(terms, id, heartbeat, signature);

        _bondToProvider(terms, a);
        a.status = Status.Open;
        a.deadline = uint40(block.timestamp + terms.window());
        _store(id, a);
        emit Answered(id, heartbeat.sequence, a.deadline);
    }

    function slash(Terms calldata terms) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Challenged);
        _notBefore(uint256(a.deadline) + 1);
        _closeSlashed(terms, id, a, terms.slashBps());
    }

    function slashEquivocation(
        Terms calldata terms,
        Heartbeat calldata first,
        bytes calldata firstSignature,
        Heartbeat calldata second,
        bytes calldata secondSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        bytes32 digest = _checkHeartbeat(terms, id, first, firstSignature);
        uint256 bps = terms.equivocationBps();
        if (
            first.sequence != second.sequence || bps == 0
                || digest == _checkHeartbeat(terms, id, second, secondSignature)
        ) revert Escrow_NotEquivocation();
        _closeSlashed(terms, id, a, bps);
    }
}
